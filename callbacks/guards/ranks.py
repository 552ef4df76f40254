"""Processes that share a run hold the same weights, or their noise was not one draw (theory §4, "Distributed")."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import nn

from ...weights import weights_digest

T = TypeVar("T")


def check_ranks_agree(trainer: Trainer, weights: Iterable[nn.Parameter]) -> None:
    """Refuse processes that hold different weights after the certified steps.

    Raises:
        MisconfigurationException: on each of them.
    """
    mine = torch.tensor([int(weights_digest(nn.ParameterList(weights))[:15], 16)], device=trainer.strategy.root_device)
    everyone = trainer.strategy.all_gather(mine)
    if not bool((everyone == mine).all()):
        raise MisconfigurationException(
            "the ranks hold different weights after the certified steps, so their noise was not the same draw; "
            "run on devices of one model, or on one device"
        )


def together(trainer: Trainer, act: Callable[[], T]) -> T:
    """Act on every process, and go on only if none failed; a process that fails keeps no other waiting.

    Args:
        trainer: of the run; all its processes must come here.
        act: without communication after a point where it may fail on some processes only.

    Returns:
        What it returns on this process.

    Raises:
        Exception: its own failure.
        MisconfigurationException: that of another process.
    """
    failure = None
    try:
        result = act()
    except Exception as error:
        failure = error
    elsewhere = other_ranks(trainer, failure is not None)
    if failure is not None:
        raise failure
    if elsewhere is not None:
        raise MisconfigurationException(elsewhere)
    return result


def other_ranks(trainer: Trainer, refused: bool) -> str | None:
    """What to say where another process refused the run; all processes have to ask.

    Args:
        trainer: of the run.
        refused: whether this process does.

    Returns:
        A sentence; None = no other process did.
    """
    if trainer.world_size == 1:
        return None
    everyone = trainer.strategy.all_gather(torch.tensor([refused], device=trainer.strategy.root_device).int())
    ranks = [rank for rank in everyone.flatten().nonzero().flatten().tolist() if rank != trainer.global_rank]
    return (
        f"process {ranks[0]} refused the run, and says why in its own message; nothing is released" if ranks else None
    )
