"""What an operator leaves behind: weights, split and a record, or a record of why there are no weights."""

from __future__ import annotations

import math
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..._version import __version__
from ...certificates import RECORD
from ...files import parse_json, write_json
from ...weights import save_weights, weights_digest
from ..batches.served import split_of


def holds_release(folder: Path) -> bool:
    """Whether a run has released weights into a folder; one that was cut short left a record that says so."""
    record = folder / RECORD
    return record.exists() and parse_json(record.read_text(encoding="utf-8"))["completed"] is True


def release(
    folder: Path,
    trainer: Trainer,
    module: LightningModule,
    record: Mapping[str, Any],
    finished: Mapping[str, Any],
    evaluations_per_step: float,
    seconds: float,
) -> None:
    """Write weights, split and record.

    Args:
        folder: where to.
        trainer: of the run.
        module: holds the weights.
        record: what was noted from the start; ``evaluations_beside_steps`` among it are gradient evaluations that no
            step of the Trainer shows: None = they depend on trained weights, and no noise covers that, so neither
            their number nor the time they took is told.
        finished: what the operator adds at the end.
        evaluations_per_step: gradient evaluations of a batch.
        seconds: since the start.
    """
    save_weights(module, folder / "weights.safetensors")
    split = split_of(trainer)
    if split is not None:
        split.save(folder / "split.json")
    planned = trainer.estimated_stepping_batches
    steps = trainer.global_step - record["first_step"]
    evaluations = steps * trainer.accumulate_grad_batches * evaluations_per_step
    beside = record.get("evaluations_beside_steps", 0)
    write_json(
        folder / RECORD,
        {
            **record,
            "completed": True,
            "released_weights": weights_digest(module),
            "steps": steps,
            "gradient_evaluations": None if beside is None else round(evaluations + beside),
            "planned_steps": int(planned) if math.isfinite(planned) else None,
            "seconds": None if beside is None else round(seconds, 3),
            "software": {
                "erode": __version__,
                "torch": torch.__version__,
                "lightning": lightning.__version__,
                "python": platform.python_version(),
            },
            **finished,
        },
    )


def infinite_buffers(module: LightningModule) -> set[str]:
    """Buffers that are infinite on purpose, such as the mask of an attention."""
    return {name for name, b in module.named_buffers() if b.is_floating_point() and not bool(b.isfinite().all())}


def divergence(module: LightningModule, on_purpose: Collection[str]) -> str | None:
    """What of a module is not finite, in a sentence; None = all is.

    Args:
        module: holds the weights.
        on_purpose: what need not be.
    """
    broken = [
        name
        for name, tensor in module.state_dict().items()
        if name not in on_purpose
        and isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and not bool(tensor.isfinite().all())
    ]
    return f"{broken[0]} is not finite: training diverged, lower the learning rate" if broken else None
