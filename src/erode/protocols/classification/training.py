"""One training run of a protocol, judged on the validation part on the way."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from ...comparison import row_trainer
from ...datamodules import MaskDataModule
from ...weights import load_weights, save_weights


@dataclass(frozen=True)
class Run:
    """How every row is trained.

    Args:
        steps: gradient steps.
        validations: times at which the validation AUROC is looked at; the weights of the best time are used.
        accelerator: see Lightning's Trainer.

    Raises:
        ValueError: without a step, or without a validation to choose weights by.
    """

    steps: int
    validations: int
    accelerator: str

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a training takes at least one step, got {self.steps}")
        if self.validations < 1:
            raise ValueError(f"weights are chosen at validations: ask for 1 or more, got {self.validations}")


def fit_best(module: LightningModule, data: MaskDataModule, folder: Path, run: Run) -> torch.device:
    """Fit a module and leave it with the weights of its best validation AUROC, also as ``weights.safetensors``.

    Args:
        module: logs ``val/auroc``.
        data: what it is fitted on.
        folder: of this run alone; what stands there is removed.
        run: how.

    Returns:
        The device on which it was computed.
    """
    shutil.rmtree(folder, ignore_errors=True)  # what a run that was cut short left behind; no row, no run
    best = ModelCheckpoint(folder, "best", monitor="val/auroc", mode="max", save_weights_only=True)
    trainer = row_trainer(
        data,
        run.steps,
        folder,
        run.accelerator,
        callbacks=[best],
        logger=CSVLogger(folder, name="", version=""),
        enable_checkpointing=True,
        val_check_interval=math.ceil(run.steps / run.validations),
    )
    trainer.fit(module, datamodule=data)
    load_weights(module, best.best_model_path)
    save_weights(module, folder / "weights.safetensors")
    Path(best.best_model_path).unlink()
    return trainer.strategy.root_device
