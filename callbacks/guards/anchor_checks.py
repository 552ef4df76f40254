"""Anchors that may hold what is to be forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn

from ...requests import ForgetRequest, Level
from ...requests.ledger import ledger_of_file, read_ledger
from ..batches.served import split_of


def check_history(anchor: str | Path, trainer: Trainer) -> None:
    """Refuse a file of weights whose own ledger says that they saw what is to be forgotten, or may have.

    Without a ledger of these very weights nothing is known: it is the owner's word that they were computed without the
    forget set. Without a split, all atoms that a loader marked as FORGET count.

    Args:
        anchor: the file.
        trainer: of the run.

    Raises:
        MisconfigurationException: naming the first such image.
    """
    try:
        told = read_ledger(anchor)
    except (FileNotFoundError, ValueError):
        return
    ledger = ledger_of_file(anchor)
    if ledger.weights != told.weights:
        return  # that of other weights
    split = split_of(trainer)
    limits = dict.fromkeys(ledger.images, Level.FORGET) if split is None else ForgetRequest.of(split).limits
    why = ledger.why_exposed(limits)
    if why is not None:
        raise MisconfigurationException(
            f"the anchor {anchor} may hold what is to be forgotten, by its own ledger ({why}); give weights that were "
            "computed without it"
        )


def check_distinct(exposed: Mapping[str, nn.Parameter], anchor: Mapping[str, Tensor]) -> None:
    """Refuse an anchor that holds the very weights that are to be unlearned.

    Raises:
        MisconfigurationException: if all exposed parameters equal the anchor's.
    """
    if all(torch.equal(parameter, anchor[name].to(parameter.device)) for name, parameter in exposed.items()):
        raise MisconfigurationException(
            "the anchor holds the very weights that are to be unlearned; give weights that were computed without the "
            "forget set, or anchor='initialisation'"
        )
