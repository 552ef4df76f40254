"""How fast the models learn the forget set again, beside a fresh one."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, Dataset, Subset

from ..callbacks import RelearnTimer
from ..datamodules import MaskDataModule
from ..datamodules.dataset import Item
from ..metrics import RelearnTime, SegmentationDice, anamnesis_index, recovery_threshold
from .forget_set import probabilities
from .values import Subject, Values

IMAGES = 64
MONITOR = "val/dice_lesion"
SHARE = 0.05
"""α: within this share of the original's Dice on the coarse masks the forget set counts as known again."""


def relearn_values(
    data: MaskDataModule,
    subjects: Sequence[Subject],
    fresh: LightningModule,
    steps: int,
    out: Path,
    accelerator: str,
    seed: int,
) -> dict[str, Values]:
    """``relearn_steps`` until the forget set is known again, and ``anamnesis_index``, by subject.

    Each trains on the coarse masks of up to 64 images of the forget set, by its own optimiser, and is looked at about
    fifty times on the same images. NaN where it did not get there; the index needs that the fresh model did.

    Args:
        data: with the split.
        subjects: the models, the original first; their copies learn.
        fresh: an untrained module of the same kind.
        steps: at most so many.
        out: folder of the logs.
        accelerator: see Lightning's Trainer.
        seed: of the order of images.
    """
    forgotten = data.forget_data()[0]
    some = Subset(forgotten, range(0, len(forgotten), math.ceil(len(forgotten) / IMAGES)))
    threshold = recovery_threshold(_dice(data, subjects[0].network, some), SHARE, "max")
    times = {
        subject.name: _relearn(data, some, subject.network, threshold, steps, out / f"relearn-{n}", accelerator, seed)
        for n, subject in enumerate([*subjects, Subject("fresh", fresh)])
    }
    scratch = times.pop("fresh")
    return {name: _values(time, scratch) for name, time in times.items()}


def _dice(data: MaskDataModule, network: LightningModule, images: Dataset[Item]) -> float:
    metric, device = SegmentationDice(data.num_classes), next(network.parameters()).device
    for batch in DataLoader(images, data.batch_size, num_workers=data.num_workers):
        metric.update(probabilities(network, batch["image"].to(device)).argmax(1), batch["mask"])
    return float(metric.compute()["lesion"])


def _relearn(
    data: MaskDataModule,
    images: Dataset[Item],
    network: LightningModule,
    threshold: float,
    steps: int,
    folder: Path,
    accelerator: str,
    seed: int,
) -> RelearnTime:
    seed_everything(seed, verbose=False)
    timer = RelearnTimer(MONITOR, threshold, "max")
    trainer = Trainer(
        accelerator=accelerator, devices=1, max_steps=steps, callbacks=[timer], default_root_dir=folder, logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, num_sanity_val_steps=-1,
        val_check_interval=max(1, steps // 50), check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(
        copy.deepcopy(network).train(),
        DataLoader(images, data.batch_size, shuffle=True, num_workers=data.num_workers),
        DataLoader(images, data.batch_size, num_workers=data.num_workers),
    )
    assert timer.time is not None
    return timer.time


def _values(time: RelearnTime, scratch: RelearnTime) -> Values:
    index = float("nan")
    if time.reached and scratch.reached and scratch.steps:
        index = anamnesis_index(time, scratch)
    return {"relearn_steps": float(time.steps) if time.reached else float("nan"), "anamnesis_index": index}
