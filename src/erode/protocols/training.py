"""One plain training run and its evaluation, as the protocols need it."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from ..datamodules import MaskDataModule
from ..rows import number


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
        ``metrics`` without prefix, None where undefined, and ``seconds`` of training.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the same hints once per row help nobody
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=steps,
        max_epochs=math.ceil(steps / len(data.train_dataloader())),  # more than enough; for the progress bar
        logger=CSVLogger(folder.parent, name=folder.name),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,  # nothing is chosen on the way, so nothing is validated either
        val_check_interval=steps + 1,
        log_every_n_steps=10,
    )
    started = time.monotonic()
    trainer.fit(module, datamodule=data)
    seconds = time.monotonic() - started
    evaluate = trainer.test if evaluate_on == "test" else trainer.validate
    metrics = evaluate(module, datamodule=data, verbose=False)[0]
    return {
        "metrics": {key.removeprefix(f"{evaluate_on}/"): number(value) for key, value in metrics.items()},
        "seconds": round(seconds, 1),
    }
