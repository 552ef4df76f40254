"""Fine-tuning on retained data: the baseline that every operator has to beat."""

from __future__ import annotations

from pathlib import Path

from ..masks import View
from ..operator_card import OperatorCard
from .bases.operator import UnlearningOperator


class FineTune(UnlearningOperator):
    """Keep training the given weights on the finely annotated images, with the user's own loss and optimiser.

    Guarantee: none (approximate). Stores nothing, costs one gradient evaluation per step. Source: theory §6,
    last point.

    Args:
        only_fine: False = train on all that the retain view offers, as the other operators do: what they gain over
            that, they gain by more than their data.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.
    """

    card = OperatorCard(
        guarantee="approximate",
        paper="baseline; theory §6",
        trains_on="fine images (`only_fine=False`: the retain view)",
        needs=("retained data",),
        requests=("item", "pixel"),
        technique="deep neural networks",
        manipulation="model shifting",
        config="unlearn/fine_tune.yaml",
        page="fine_tune.md",
    )

    def __init__(self, only_fine: bool = True, folder: str | Path | None = None) -> None:
        super().__init__(folder)
        self.only_fine = only_fine
        self.view = View.FINE_SUBSET if only_fine else View.RETAIN
