"""Recall and specificity of image decisions in subgroups, with exact intervals (theory §8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .resampling import exact_binomial


@dataclass(frozen=True)
class Proportion:
    """Successes among independent trials.

    Args:
        successes: 0 to ``trials``.
        trials: number of images.

    Example:
        >>> share = Proportion(9, 10)
        >>> share.value, [round(end, 3) for end in share.interval()]
        (0.9, [0.555, 0.997])
    """

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """The share; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Clopper-Pearson interval; [0, 1] without trials."""
        return exact_binomial(self.successes, self.trials, confidence) if self.trials else (0.0, 1.0)


@dataclass(frozen=True)
class Rates:
    """Recall and specificity of one subgroup: a recall that came with false alarms is none.

    Args:
        recall: positive images that were called positive.
        specificity: other images that were not.
    """

    recall: Proportion
    specificity: Proportion


def subgroup_rates(called: Tensor, positive: Tensor, members: Mapping[str, Tensor]) -> dict[str, Rates]:
    """Recall and specificity in each subgroup.

    Args:
        called: bool ``[N]``, the decision on each image.
        positive: bool ``[N]``, the truth.
        members: bool ``[N]`` by name of the subgroup; subgroups may overlap.

    Returns:
        Rates by name.

    Raises:
        ValueError: for other shapes.

    Source: Hooper et al. 2023 (recall on rare subgroups); Clopper and Pearson 1934 (intervals).

    Example:
        >>> import torch
        >>> called, truth, ruler = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
        >>> subgroup_rates(called, truth, {"ruler": ruler})["ruler"].recall
        Proportion(successes=1, trials=2)
    """
    for name, value in {"positive": positive, **members}.items():
        if called.ndim != 1 or value.shape != called.shape:
            raise ValueError(f"decisions and {name} must be [N], got {list(called.shape)} and {list(value.shape)}")
    called, positive = called.bool(), positive.bool()
    return {
        name: Rates(
            recall=Proportion(int((called & positive & inside).sum()), int((positive & inside).sum())),
            specificity=Proportion(int((~called & ~positive & inside).sum()), int((~positive & inside).sum())),
        )
        for name, inside in ((name, inside.bool()) for name, inside in members.items())
    }
