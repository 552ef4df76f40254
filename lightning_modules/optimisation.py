"""Optimiser and schedule as a LightningModule returns them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from ..object_settings import settings_of


def with_schedule(optimizer: Optimizer, scheduler: LRSchedulerCallable | Literal["cosine"] | None, steps: int) -> Any:
    """What ``configure_optimizers`` returns.

    Args:
        optimizer: already built.
        scheduler: builds a scheduler, stepped every epoch; ``"cosine"`` = to zero over ``steps``; None = constant.
        steps: optimiser steps that are left.
    """
    if scheduler is None:
        return optimizer
    schedule: dict[str, Any] = (
        {"scheduler": CosineAnnealingLR(optimizer, T_max=max(1, steps)), "interval": "step"}
        if scheduler == "cosine"
        else {"scheduler": scheduler(optimizer), "interval": "epoch"}
    )
    return {"optimizer": optimizer, "lr_scheduler": schedule}


def schedule_settings(
    scheduler: LRSchedulerCallable | Literal["cosine"] | None,
    optimizer: OptimizerCallable,
    parameters: Iterable[nn.Parameter],
) -> Any:
    """What a schedule was told, as plain values: read from one that is built on an optimiser of its own.

    Args:
        scheduler: as for `with_schedule`.
        optimizer: builds the optimiser.
        parameters: of the module; nothing happens to them.
    """
    if scheduler is None or isinstance(scheduler, str):
        return scheduler
    return settings_of(scheduler(optimizer(parameters)))
