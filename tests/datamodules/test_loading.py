"""The same numbers come out with any number of workers, whatever else draws from the run's seed."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from monai.transforms import Flipd, RandFlipd

from erode.datamodules import ImagesOnly, SyntheticDermoscopy
from erode.masks import View


class Watch(LightningModule):
    """Keeps what it is trained on, and draws as dropout does."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, index):
        for part in [batch] if "image" in batch else batch.values():
            self.seen += [part["image"].sum((2, 3)), part["image"][:, :, :8].sum((2, 3))]
        self.seen.append(torch.rand(1))
        return self.weight.sum()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def served(workers, **options):
    return SyntheticDermoscopy(
        size=32, train_images=8, val_images=2, test_images=2, batch_size=2, validate_data=False, num_workers=workers,
        **options,
    )  # fmt: skip


def seen(data):
    seed_everything(0, verbose=False)
    module = Watch()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=3, accelerator="cpu", num_sanity_val_steps=0, enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=data)
    assert len(module.seen) >= 3 * 3 * 3  # three epochs of three batches and more
    return [values.tolist() for values in module.seen]


def beside(data):
    data.serve(View.RETAIN, forget=True)
    return data


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize(
    ("as_served", "options"),
    [
        (lambda data: data, {}),
        (lambda data: data, {"class_balance": 0.5}),
        (beside, {"fine_fraction": 0.5}),  # two loaders side by side, whose draws interleave
        (ImagesOnly, {}),
    ],
)
def test_batches_are_those_of_any_number_of_workers(as_served, options):
    assert seen(as_served(served(0, **options))) == seen(as_served(served(2, **options)))


def test_workers_belong_to_the_description_where_each_draws_its_own():
    plain = served(0).describe()
    assert "num_workers" not in plain
    assert served(2).describe() == plain
    assert served(2, transform=Flipd(["image"], spatial_axis=0)).describe().keys() == plain.keys()
    random = [served(n, transform=RandFlipd(["image"], prob=0.5, spatial_axis=0)).describe() for n in (0, 2)]
    assert random[0] == {key: value for key, value in random[1].items() if key != "num_workers"}
    assert random[1]["num_workers"] == 2
