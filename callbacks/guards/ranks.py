"""Processes that share a run hold the same weights, or their noise was not one draw (theory §4, "Distributed")."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import nn

from ...weights import weights_digest


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
