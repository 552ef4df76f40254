"""What quantised training refuses because it could make the promise false."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from classifier_runs import shortcut_items
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder
from monai.networks.layers import DropPath
from quantised_runs import Module, Plain, data, fit
from torch import nn
from torch.utils.data import DataLoader, Dataset, StackDataset, Subset, WeightedRandomSampler, default_collate

from erode.lightning_modules import ImageClassifier, QuantisedTraining
from erode.objectives import ERM, GroupDRO, JustTrainTwice


class Flips(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = data()[index][0]
        return (image.flip(-1) if torch.rand(()) < 0.5 else image), image


class Batches(Dataset):
    """Serves the images of a batch together."""

    def __len__(self):
        return 6

    def __getitems__(self, indices):
        images = torch.stack([data()[index][0] for index in indices])
        return [(image, image) for image in images - images.mean(0)]


class Draws(Plain):
    def training_step(self, batch, index):
        return super().training_step((batch[0] + torch.randn_like(batch[0]), batch[1]), index)


class DrawsQuantised(QuantisedTraining, Draws):
    pass


class Together(Plain):
    def on_after_batch_transfer(self, batch, index):
        return batch[0] - batch[0].mean(0), batch[1]


class TogetherQuantised(QuantisedTraining, Together):
    pass


class BeforeQuantised(Module):
    def on_before_batch_transfer(self, batch, index):
        return batch[0] - batch[0].mean(0), batch[1]


class Served(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(data(), 5)

    def transfer_batch_to_device(self, batch, device, index):
        return batch[0] - batch[0].mean(0), batch[1]


def patched():
    """The hook is set on the object, as a notebook would."""
    module = Module(bound=0.05)
    module.on_after_batch_transfer = lambda batch, index: (batch[0] - batch[0].mean(0), batch[1])
    return module


class Classifier(QuantisedTraining, ImageClassifier):
    pass


class Balanced(ERM):
    """Learns from the samples on the way, though no hook says so but `progress`."""

    def progress(self):
        return {"mean": 0.0}


def weighing(make):
    return lambda: Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), num_classes=2, objective=make(), bound=1.0)


class Jitter(nn.Module):
    """Draws from a generator that nobody else knows; without one, counts how often it was asked."""

    def __init__(self, make):
        super().__init__()
        self.generator, self.calls = make(), 0

    def forward(self, x):
        self.calls += 1
        return x * (1 + (self.calls if self.generator is None else self.generator.normal()))


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return self.layer(x)


class Last(Plain):
    def training_step(self, batch, index):
        return super().training_step(batch[-2:], index)


class LastQuantised(QuantisedTraining, Last):
    pass


class Speechless(Plain):
    def training_step(self, batch, index):
        return None


class SpeechlessQuantised(QuantisedTraining, Speechless):
    pass


class Forgets(Module):
    def on_fit_start(self):
        """Without super: nothing would be checked."""


def first_of_another_length(items):
    return torch.ones(2), *(part.repeat(2, 1, 1, 1) for part in default_collate(items))


def conv(*layers):
    return lambda: Module(nn.Sequential(nn.Conv2d(1, 1, 1), *layers), bound=0.05)


REFUSALS = {
    "epochs": ({"max_steps": 5, "max_epochs": 3}, {}, "give the Trainer max_steps, and neither"),
    "part of the data": ({"limit_train_batches": 2}, {}, "drop limit_train_batches"),
    "early stopping": ({"callbacks": lambda: [EarlyStopping("loss")]}, {}, "EarlyStopping ends the run by the data"),
    "batch norm": ({}, {"module": conv(nn.BatchNorm2d(1))}, r"network\.1 keeps running statistics"),
    "dropout": ({}, {"module": conv(nn.Dropout(0.5))}, r"network\.1 draws random numbers"),
    "random step": ({}, {"module": lambda: DrawsQuantised(bound=0.05)}, "drew random numbers"),
    "rare draws": ({}, {"module": conv(DropPath(0.01))}, "drew random numbers"),
    "NumPy": ({}, {"module": conv(Jitter(np.random.default_rng))}, "differed when it was computed again"),
    "memory": ({}, {"module": conv(Jitter(lambda: None))}, "differed when it was computed again"),
    "buffer": ({}, {"module": lambda: Module(Counts(), bound=0.05)}, r"the buffer network\.seen changed"),
    "augmentation": ({}, {"loader": lambda: DataLoader(Flips(), 3)}, "not the 6 of the first step bit for bit"),
    "drop_last": ({}, {"loader": lambda: DataLoader(data(), 5, drop_last=True)}, "drop_last=True need not serve"),
    "weighted": (
        {},
        {"loader": lambda: DataLoader(data(), 5, sampler=WeightedRandomSampler([1.0] * 24, 24))},
        "WeightedRandomSampler",
    ),
    "batch sampler": ({}, {"loader": lambda: DataLoader(data(), batch_sampler=[[0, 1], [1, 2]])}, "may serve a sample"),
    "collation": (
        {},
        {"loader": lambda: DataLoader(data(), 5, collate_fn=first_of_another_length)},
        "a sample may depend on its batch",
    ),
    "count": (
        {},
        {
            "loader": lambda: DataLoader(data(size=6), 1, collate_fn=first_of_another_length),
            "module": lambda: LastQuantised(bound=0.05),
        },
        "a step saw 12 samples, the data set has 6",
    ),
    "tuner": ({"callbacks": lambda: [LearningRateFinder()]}, {}, "LearningRateFinder chooses by the data"),
    "no loss": ({}, {"module": lambda: SpeechlessQuantised(bound=0.05)}, "returned no loss for a sample"),
    "two stages": ({}, {"module": weighing(lambda: JustTrainTwice(2, 3.0))}, "objective is JustTrainTwice, by which"),
    "groups": ({}, {"module": weighing(GroupDRO)}, "objective is GroupDRO, by which the gradient of a sample depends"),
    "objective": ({}, {"module": weighing(Balanced)}, "objective is Balanced, by which the gradient of a sample"),
    "after transfer": (
        {},
        {"module": lambda: TogetherQuantised(bound=0.05)},
        "has on_after_batch_transfer of its own, .* do it in the data set",
    ),
    "before transfer": ({}, {"module": lambda: BeforeQuantised(bound=0.05)}, "has on_before_batch_transfer of its own"),
    "transfer": ({}, {"loader": Served}, "Served has transfer_batch_to_device of its own"),
    "patched": ({}, {"module": patched}, "has on_after_batch_transfer of its own"),
    "served together": ({}, {"loader": lambda: DataLoader(Batches(), 3)}, "Batches serves whole batches"),
    "part of it": ({}, {"loader": lambda: DataLoader(Subset(Batches(), range(5)), 3)}, "Subset serves whole batches"),
    "no check": ({}, {"module": lambda: Forgets(bound=0.05)}, r"leaves out super\(\)\.on_fit_start\(\)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_could_make_the_promise_false_is_refused(name, tmp_path):
    trainer, run, message = REFUSALS[name]
    run = {key: make() for key, make in run.items()}
    trainer = dict(trainer)
    callbacks = trainer.pop("callbacks", list)()
    with pytest.raises(MisconfigurationException, match=message):
        fit(data(), tmp_path, *callbacks, steps=20, **run, **trainer)
    assert not (tmp_path / "removal.json").exists()


def test_a_classifier_whose_objective_weighs_each_image_by_itself_is_trained(tmp_path):
    module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), num_classes=2, objective=ERM(), bound=1.0)
    fit(None, tmp_path, module=module, loader=DataLoader(shortcut_items(12, minority=0.25), 4), steps=2)
    assert module.removal()["completed"]


def test_a_part_of_a_data_set_that_serves_samples_one_by_one_is_trained_on(tmp_path):
    module = fit(None, tmp_path, loader=DataLoader(Subset(data(), range(0, 24, 2)), 5), steps=2)
    assert module.removal()["samples"] == 12
    images, targets = data().tensors
    stacked = StackDataset(list(images), list(targets))
    assert fit(None, tmp_path, loader=DataLoader(stacked, 5), steps=2).removal()["samples"] == 24


@pytest.mark.parametrize("wrong", [{"bound": 0.0}, {"kappa": -1.0}, {"smoothing": -1.0}, {"kappa": 1.0}])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        Module(**wrong)
