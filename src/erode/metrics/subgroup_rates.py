"""Recall and specificity of image decisions in subgroups, with intervals (theory §8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .resampling import exact_binomial, share_interval


@dataclass(frozen=True)
class Proportion:
    """Successes among trials that are independent, or come in clusters that are.

    Args:
        successes: 0 to ``trials``.
        trials: number of images.
        clusters: successes and trials of each cluster (patient) that has trials; None = each image alone.

    Example:
        >>> share = Proportion(9, 10)
        >>> share.value, [round(end, 3) for end in share.interval()]
        (0.9, [0.555, 0.997])
    """

    successes: int
    trials: int
    clusters: Sequence[Sequence[float]] | None = field(default=None, repr=False)

    @property
    def value(self) -> float:
        """The share; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Clopper-Pearson interval, or that of resampled clusters; [0, 1] without trials."""
        if not self.trials:
            return 0.0, 1.0
        if self.clusters is not None:
            return share_interval(torch.tensor(self.clusters), confidence)
        return exact_binomial(self.successes, self.trials, confidence)


@dataclass(frozen=True)
class Rates:
    """Recall and specificity of one subgroup: a recall that came with false alarms is none.

    Args:
        recall: positive images that were called positive.
        specificity: other images that were not.
    """

    recall: Proportion
    specificity: Proportion


def subgroup_rates(
    called: Tensor, positive: Tensor, members: Mapping[str, Tensor], cluster: Tensor | None = None
) -> dict[str, Rates]:
    """Recall and specificity in each subgroup.

    Args:
        called: bool ``[N]``, the decision on each image.
        positive: bool ``[N]``, the truth.
        members: bool ``[N]`` by name of the subgroup; subgroups may overlap.
        cluster: integer ``[N]`` of images that belong together, such as the patient; None = each alone.

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
    given = {} if cluster is None else {"cluster": cluster}
    for name, value in {"positive": positive, **given, **members}.items():
        if called.ndim != 1 or value.shape != called.shape:
            raise ValueError(f"decisions and {name} must be [N], got {list(called.shape)} and {list(value.shape)}")
    called, positive = called.bool(), positive.bool()
    return {
        name: Rates(
            recall=_proportion(called, positive & inside, cluster),
            specificity=_proportion(~called, ~positive & inside, cluster),
        )
        for name, inside in ((name, inside.bool()) for name, inside in members.items())
    }


def _proportion(success: Tensor, tried: Tensor, cluster: Tensor | None) -> Proportion:
    successes, trials = int((success & tried).sum()), int(tried.sum())
    if cluster is None:
        return Proportion(successes, trials)
    _, member = torch.unique(cluster[tried], return_inverse=True)
    counts = [torch.bincount(member[hit], minlength=int(member.max()) + 1 if trials else 0)
              for hit in (success[tried], torch.ones_like(member, dtype=torch.bool))]  # fmt: skip
    return Proportion(successes, trials, torch.stack(counts, dim=1).tolist())
