"""The Trainer of one row of an experiment: so many steps on one device, and nothing looked at on the way."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from ..datamodules import MaskDataModule
from ..rows import number


def row_trainer(data: MaskDataModule, steps: int, folder: Path, accelerator: str, **options: Any) -> Trainer:
    """A Trainer that takes ``steps`` optimiser steps on what the data serve now, and keeps no checkpoints.

    Args:
        data: serves the view that is to be learnt.
        steps: optimiser steps.
        folder: of what is written.
        accelerator: see Lightning's Trainer.
        **options: of Lightning's Trainer, in place of or beside ours.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the same hints once per row help nobody
    ours: dict[str, Any] = {
        "accelerator": accelerator,
        "devices": 1,
        "max_steps": steps,
        "max_epochs": math.ceil(steps / len(data.train_dataloader())),  # more than enough; for the progress bar
        "default_root_dir": folder,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,  # nothing is chosen on the way, so nothing is validated either
        "val_check_interval": steps + 1,
        "log_every_n_steps": 10,
    }
    return Trainer(**{**ours, **options})


def evaluated(trainer: Trainer, module: LightningModule, data: MaskDataModule, part: str) -> dict[str, float | None]:
    """What a module logs on the test or the validation part, without the part's prefix; None where undefined.

    Args:
        trainer: evaluates.
        module: logs its metrics under ``test/`` and ``val/``.
        data: serves the parts.
        part: ``test`` or ``val``.
    """
    evaluate = trainer.test if part == "test" else trainer.validate
    metrics = evaluate(module, datamodule=data, verbose=False)[0]
    return {key.removeprefix(f"{part}/"): number(value) for key, value in metrics.items()}
