"""One training run of a protocol, judged on the validation part on the way."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from ..datamodules import MaskDataModule
from ..weights import load_weights, save_weights


@dataclass(frozen=True)
class Run:
    """How every row is trained.

    Args:
        steps: gradient steps.
        validations: times at which the validation AUROC is looked at; the weights of the best time are used.
        accelerator: see Lightning's Trainer.
    """

    steps: int
    validations: int
    accelerator: str


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
    trainer = Trainer(
        accelerator=run.accelerator,
        devices=1,
        max_steps=run.steps,
        max_epochs=math.ceil(run.steps / len(data.train_dataloader())),  # more than enough; for the progress bar
        callbacks=[best],
        logger=CSVLogger(folder, name="", version=""),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=math.ceil(run.steps / run.validations),
        log_every_n_steps=10,
    )
    trainer.fit(module, datamodule=data)
    load_weights(module, best.best_model_path)
    save_weights(module, folder / "weights.safetensors")
    Path(best.best_model_path).unlink()
    return trainer.strategy.root_device
