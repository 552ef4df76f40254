"""One plain training run and its evaluation, as the protocols need it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger

from ...comparison import evaluated, row_trainer
from ...datamodules import MaskDataModule


def train_and_evaluate(
    module: LightningModule,
    data: MaskDataModule,
    steps: int,
    folder: Path,
    evaluate_on: Literal["test", "val"] = "test",
    accelerator: str = "auto",
) -> dict[str, Any]:
    """Train for a number of steps, without looking at anything on the way, and evaluate the last weights once.

    Args:
        module: logs its metrics under ``test/`` and ``val/``.
        data: serves the view that is to be learnt.
        steps: optimiser steps.
        folder: for logs.
        evaluate_on: the part that the numbers come from.
        accelerator: see Lightning's Trainer.

    Returns:
        ``metrics`` without prefix, None where undefined, ``seconds`` of training and type of ``device``.
    """
    logger = CSVLogger(folder.parent, name=folder.name)
    trainer = row_trainer(data, steps, folder, accelerator, logger=logger)
    started = time.monotonic()
    trainer.fit(module, datamodule=data)
    seconds = time.monotonic() - started
    return {
        "metrics": evaluated(trainer, module, data, evaluate_on),
        "seconds": round(seconds, 1),
        "device": trainer.strategy.root_device.type,
    }
