"""What an operator says about itself: the facts from which tables, plans, records and documentation are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Guarantee = Literal["exact", "certified", "approximate"]

Need = Literal[
    "retained data", "coarse masks", "forget set", "anchor", "checkpoints with ledgers", "unexposed encoder",
    "quantised training",
]  # fmt: skip
"""What has to be at hand, beside the trained weights, when a request is answered."""

Request = Literal["item", "pixel", "stream"]

REQUESTS: dict[Request, str] = {
    "item": "whole images", "pixel": "labels of single pixels", "stream": "requests that arrive one after another",
}  # fmt: skip
"""Kinds of removal request; the surveys know no request below an item but features, so ``pixel`` is not theirs."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "baseline": ("retraining from scratch",),
    "model-agnostic": (
        "differential privacy", "certified removal", "statistical query learning", "decremental learning",
        "knowledge adaptation", "MCMC parameter sampling",
    ),
    "model-intrinsic": (
        "softmax classifiers", "linear models", "tree-based models", "Bayesian models", "deep neural networks",
    ),
    "data-driven": ("data partitioning", "data augmentation", "data influence"),
}  # fmt: skip
"""Techniques by family, in the terms of Nguyen et al., "A survey of machine unlearning" (arXiv 2209.02299)."""

Manipulation = Literal[
    "retraining", "data obfuscation", "data pruning", "data replacement", "model shifting", "model replacement",
    "model pruning", "none at request time",
]  # fmt: skip
"""What is changed, in the terms of Xu et al. 2023, "Machine unlearning: a survey" (all but the first and the last)."""

NOTHING = "nothing"

AT_NO_REQUEST: Manipulation = "none at request time"
"""Of a way of training that forgets without doing anything."""

_SENTENCES = {"exact": "exact (ε = 0, δ = 0)", "certified": "certified (ε, δ)", "approximate": "none (approximate)"}


class Effort(NamedTuple):
    """What one run computes beside the steps of the optimiser, which the card counts."""

    evaluations: float = 0.0
    """Gradient evaluations, each of one batch; a Hessian-vector product is two."""
    least_passes: float = 0.0
    """Gradients or Hessians over all data, at least."""
    most_passes: float = 0.0

    def range(self, batches: float | None) -> tuple[float, float] | None:
        """Gradient evaluations of one batch in all, least and most; None = unknown, as the length of a pass is.

        Args:
            batches: of a pass over the data; None = unknown.

        Example:
            >>> Effort(680.0).range(None), Effort(0.0, 10.0, 20.0).range(75), Effort(0.0, 2.0, 2.0).range(None)
            ((680.0, 680.0), (750.0, 1500.0), None)
        """
        if batches is None and self.most_passes:
            return None
        each = batches or 0.0
        return self.evaluations + self.least_passes * each, self.evaluations + self.most_passes * each

    def words(self, batches: float | None) -> str:
        """For tables; empty where there is nothing beside the steps.

        Example:
            >>> Effort(680.0, 1.0, 1.0).words(None), Effort(0.0, 10.0, 20.0).words(75)
            ('680 and 1 pass once', '10 to 20 passes (750 to 1,500) once')
        """
        if not (self.evaluations or self.most_passes):
            return ""
        passes = f"{_span(self.least_passes, self.most_passes)} pass{'' if self.most_passes == 1 else 'es'}"
        found = self.range(batches)
        if found is None:
            return f"{self.evaluations:,.0f} and {passes} once" if self.evaluations else f"{passes} once"
        return f"{passes} ({_span(*found)}) once" if self.most_passes else f"{_span(*found)} once"


NO_EFFORT = Effort()


def _span(least: float, most: float) -> str:
    return f"{least:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f}"


@dataclass(frozen=True, kw_only=True)
class OperatorCard:
    """The card of an unlearning operator, or of a way of training that unlearns; a class attribute named ``card``.

    Args:
        guarantee: what it promises: ``exact``, ``certified`` or ``approximate``, which is nothing.
        paper: where it comes from, and how it differs.
        trains_on: the data of its run, in words.
        needs: what must be at hand when a request is answered.
        requests: kinds of request it answers.
        technique: its place in :data:`FAMILIES`.
        manipulation: what it changes.
        config: file within ``erode.configs``.
        page: file within ``docs/operators``.
        scope: for what the guarantee holds, in words; empty = as it stands.
        stores: what is kept beside the weights, during the original training or its own run, in copies of the
            parameters or in files.
        costs: gradient evaluations in words.
        evaluations_per_step: gradient evaluations of one batch, in units of a forward and backward pass; what a run
            takes beside its steps depends on the settings: see :class:`Effort`.

    Raises:
        ValueError: for a word that is not among those above.

    Example:
        >>> from erode.callbacks import Retrain
        >>> Retrain.card.promise, Retrain.card.family
        ('exact (ε = 0, δ = 0)', 'baseline')
    """

    guarantee: Guarantee
    paper: str
    trains_on: str
    needs: tuple[Need, ...]
    requests: tuple[Request, ...]
    technique: str
    manipulation: Manipulation
    config: str
    page: str
    scope: str = ""
    stores: str = NOTHING
    costs: str = "one gradient evaluation per step"
    evaluations_per_step: float = 1.0

    def __post_init__(self) -> None:
        checked: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
            ("guarantee", (self.guarantee,), get_args(Guarantee)),
            ("needs", self.needs, get_args(Need)),
            ("requests", self.requests, get_args(Request)),
            ("technique", (self.technique,), sum(FAMILIES.values(), ())),
            ("manipulation", (self.manipulation,), get_args(Manipulation)),
        )
        for name, given, known in checked:
            unknown = [word for word in given if word not in known]
            if unknown or not (given or name == "needs"):
                raise ValueError(f"an operator's card says {name} = {given}; choose from {', '.join(known)}")

    @property
    def family(self) -> str:
        """The family of its technique."""
        return next(family for family, techniques in FAMILIES.items() if self.technique in techniques)

    @property
    def promise(self) -> str:
        """The guarantee in words, with its scope."""
        return ": ".join(filter(None, (_SENTENCES[self.guarantee], self.scope)))
