"""Random transforms follow the run's seed, and no two items, epochs, workers or processes share a draw."""

import functools

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from monai.transforms import Compose, Flipd, RandGaussianNoised

from erode.datamodules import SyntheticDermoscopy
from erode.datamodules.randomness import random_parts


class Difference:
    """What a transform adds to the image; holds it as users' own transforms do."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, item):
        before = item["image"].clone()
        after = self.transform(item)
        return {**after, "image": torch.as_tensor(after["image"]) - before}


class Watch(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(batch["image"])
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def noise():
    return RandGaussianNoised(["image"], prob=1.0, std=1.0, sample_std=False)


def data(transform, workers=0):
    return SyntheticDermoscopy(
        size=32, train_images=8, val_images=2, test_images=2, batch_size=2, flips=False, validate_data=False,
        num_workers=workers, transform=transform,
    )  # fmt: skip


def fit(transform, workers=0, seed=0, epochs=2):
    seed_everything(seed, workers=True, verbose=False)
    module = Watch()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", limit_val_batches=0, enable_model_summary=False, **quiet
    )  # fmt: skip
    trainer.fit(module, datamodule=data(transform, workers))
    return torch.cat(module.seen)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_noise_follows_the_seed_and_never_comes_twice(workers):
    first = fit(Difference(noise()), workers)
    assert torch.equal(first, fit(Difference(noise()), workers))
    assert len(first) == 16  # two epochs
    assert torch.cdist(first.flatten(1), first.flatten(1)).add(1e3 * torch.eye(16)).min() > 10
    assert not torch.equal(first, fit(Difference(noise()), workers, seed=1))


def test_processes_differ_from_one_seed_and_a_rank_repeats_itself():
    def noises(rank):
        dataset = data(Difference(Compose([noise()]))).dataset("train")
        dataset.rank = rank
        torch.manual_seed(0)
        return torch.stack([dataset[i]["image"] for i in range(3)])

    assert torch.equal(noises(0), noises(0))
    assert (noises(0) - noises(1)).flatten(1).norm(dim=1).min() > 10


@pytest.mark.parametrize("transform", [None, Flipd(["image"], spatial_axis=0), lambda item: item])
def test_what_draws_nothing_leaves_the_generator_alone(transform):
    dataset = data(transform).dataset("train")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    dataset[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_random_parts_are_found_wherever_a_transform_keeps_them():
    inner = noise()
    loop = Difference(inner)
    loop.itself = loop
    holders = [inner, Compose([inner]), [inner], {"a": inner}, loop, functools.partial(print, inner), loop.__call__]
    assert [len(random_parts(holder)) for holder in holders] == [1] * len(holders)
    assert len(random_parts(Compose([Difference(inner)]))) == 2
    assert random_parts(None) == random_parts(RandGaussianNoised) == []
