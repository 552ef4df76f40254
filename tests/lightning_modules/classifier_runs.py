"""A task with a shortcut, small enough for a linear network; as a script: fits by one and by two processes."""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from monai.networks.nets import DenseNet  # noqa: F401  # imported before processes fork
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from erode.batch import FIELDS, NO_PRIOR
from erode.lightning_modules import ImageClassifier
from erode.objectives import ERM, GroupDRO, JustTrainTwice

OBJECTIVES = {
    "erm": ERM,
    "group_dro": lambda: GroupDRO(step_size=0.1),
    "jtt": lambda: JustTrainTwice(first_steps=8, upweight=6.0),
    "jtt_dro": lambda: JustTrainTwice(first_steps=8, upweight=3.0, second=GroupDRO(step_size=0.1)),
}
DISTRIBUTED = ("group_dro", "jtt_dro")
"""ERM is a group of its own in both."""


def shortcut_items(count=200, minority=0.05, seed=0, flags=True):
    """Pixel 0 shows the class weakly, pixel 1 the artefact strongly; they disagree in a minority of images."""
    generator = torch.Generator().manual_seed(seed)
    blank = {key: torch.zeros(2, 2, dtype=field.dtype) for key, field in FIELDS.items() if field.per_pixel}
    items = []
    for i in range(count):
        label = i % 2
        flag = label if i % round(1 / minority) > 1 else 1 - label
        image = 0.3 * torch.randn(1, 2, 2, generator=generator)
        image[0, 0, 0] += 0.5 * (2 * label - 1)
        image[0, 0, 1] += 2.0 * (2 * flag - 1)
        items.append(
            {
                "image": image, **blank, "prior": torch.full((2, 2), NO_PRIOR), "label": torch.tensor(label),
                "flag": torch.tensor(flag if flags else -1), "counted": torch.tensor(True), "id": f"case {i}",
            }
        )  # fmt: skip
    return items


def classifier(objective=None, seed=0, rate=0.5):
    torch.manual_seed(seed)
    return ImageClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), num_classes=2, objective=objective,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate),
    )  # fmt: skip


def trainer(folder, **options):
    usual = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_steps": 40,
        "max_epochs": -1, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "default_root_dir": folder, "use_distributed_sampler": False,
    }  # fmt: skip
    return pl.Trainer(**{**usual, **options})


class InOrder(pl.LightningDataModule):
    """In a fixed order, each process takes every second image: a batch of both is the batch of one alone."""

    def train_dataloader(self):
        world = dist.get_world_size() if dist.is_initialized() else 1
        data = shortcut_items(42, minority=1 / 7)
        sampler = DistributedSampler(data, shuffle=False) if world > 1 else None
        return DataLoader(data, 6 // world, sampler=sampler)


class SaveAtTheEnd(pl.Callback):
    """In the forked process: what the objective learnt does not come back from there."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, module):
        trainer.save_checkpoint(self.path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in DISTRIBUTED:
        for processes in (1, 2):
            options = {"devices": processes, "strategy": "ddp_fork"} if processes > 1 else {}
            saving = SaveAtTheEnd(Path(sys.argv[1]) / f"{name}-{processes}.ckpt")
            trainer(sys.argv[1], max_steps=20, callbacks=[saving], **options).fit(
                classifier(OBJECTIVES[name]()), datamodule=InOrder()
            )
