"""CF-k: fine-tune the last k blocks and leave it to forgetting in training to remove the rest."""

from __future__ import annotations

from pathlib import Path

from ..operator_card import OperatorCard
from .bases.blocks import LastBlocks


class CFk(LastBlocks):
    """Keep training the last ``k`` blocks with the user's own loss and optimiser; nothing else changes.

    See :class:`~erode.callbacks.bases.blocks.LastBlocks` for what a block is. Guarantee: none (approximate): the blocks
    before them still hold what they learnt from the forget set. Stores nothing. At most one gradient evaluation per
    step.

    Args:
        k: blocks to train, counted from the output.
        only_fine: train on the finely annotated images alone, instead of all that the retain view offers.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for k < 1.
        MisconfigurationException: see :class:`~erode.callbacks.bases.blocks.LastBlocks`.

    Source: Goel et al. 2022 (catastrophic forgetting of the last k layers).
    """

    card = OperatorCard(
        guarantee="approximate",
        scope="the untouched blocks hold what they learnt from the forget set",
        paper="CF-k (Goel et al. 2022, arXiv 2201.06640); theory §6",
        trains_on="the retain view (`only_fine`: fine images), the last k blocks only",
        needs=("retained data",),
        requests=("item", "pixel"),
        costs="at most one gradient evaluation per step",
        technique="deep neural networks",
        manipulation="model shifting",
        config="unlearn/cf_k.yaml",
        page="cf_k.md",
    )
    instead = "FineTune"

    def __init__(self, k: int = 3, only_fine: bool = False, folder: str | Path | None = None) -> None:
        super().__init__(k, only_fine, folder)
