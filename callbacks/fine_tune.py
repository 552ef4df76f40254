"""Fine-tuning on the finely annotated images: the baseline that every operator has to beat."""

from __future__ import annotations

from ..masks import View
from .operator import UnlearningOperator


class FineTune(UnlearningOperator):
    """Keep training the given weights on the finely annotated images, with the user's own loss and optimiser.

    Guarantee: none (approximate). Stores nothing, costs one gradient evaluation per step. Source: theory §6,
    last point.
    """

    guarantee = "approximate"
    paper = "baseline"
    view = View.FINE_SUBSET
