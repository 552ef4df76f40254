"""Optimiser and schedule as a LightningModule returns them."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR


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
