"""Fine-tuning on the finely annotated images: the baseline that every operator has to beat."""

from __future__ import annotations

from ..masks import View
from ..operator_card import OperatorCard
from .operator import UnlearningOperator


class FineTune(UnlearningOperator):
    """Keep training the given weights on the finely annotated images, with the user's own loss and optimiser.

    Guarantee: none (approximate). Stores nothing, costs one gradient evaluation per step. Source: theory §6,
    last point.
    """

    card = OperatorCard(
        guarantee="approximate",
        paper="baseline; theory §6",
        trains_on="fine images",
        needs=("retained data",),
        requests=("item", "pixel"),
        technique="deep neural networks",
        manipulation="model shifting",
        config="unlearn/fine_tune.yaml",
        page="fine_tune.md",
    )
    view = View.FINE_SUBSET
