"""Prevalence sweep: a measure under other rates of disease and artefact, by re-weighting (theory §8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .counts import check_flags

Rate = Literal["positive", "flag_given_positive", "flag_given_negative"]
"""P(y=1), P(s=1|y=1) and P(s=1|y=0)."""


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep.

    Args:
        rate: the rate that was set.
        value: the measure there.
        effective_images: ``1 / Σw²``, the number of equally weighted images with as much noise.
    """

    rate: float
    value: float
    effective_images: float


def prevalence_weights(labels: Tensor, flags: Tensor, **rates: float) -> Tensor:
    r"""Weights under which a test set has other rates of disease and artefact.

    .. math:: w_i = P'(y_i) P'(s_i|y_i) / n_{y_i s_i}

    Assumes that the images *within* a group (y, s) stay the same kind of images.

    Args:
        labels: ``[N]``, 1 = positive, 0 = negative.
        flags: ``[N]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = weight 0.
        rates: ``positive``, ``flag_given_positive``, ``flag_given_negative`` in [0, 1]; what is not given stays as
            it is in the test set.

    Returns:
        float64 ``[N]``, sum 1.

    Raises:
        ValueError: for other shapes, labels, flags or rates, or a group that is to have weight but has no image.

    Example:
        >>> prevalence_weights(torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 0, 0]), positive=0.1)
        tensor([0.0333, 0.0333, 0.0333, 0.9000], dtype=torch.float64)
    """
    _check(labels, flags, rates)
    members = {(y, s): (labels == y) & (flags == s) for y in (0, 1) for s in (0, 1)}
    sizes = {key: int(inside.sum()) for key, inside in members.items()}
    by_label = [sizes[y, 0] + sizes[y, 1] for y in (0, 1)]
    positive = rates.get("positive", by_label[1] / max(sum(by_label), 1))
    names = ("flag_given_negative", "flag_given_positive")
    flagged = [rates.get(name, sizes[y, 1] / max(by_label[y], 1)) for y, name in enumerate(names)]
    weights = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    for (y, s), inside in members.items():
        mass = (positive if y else 1 - positive) * (flagged[y] if s else 1 - flagged[y])
        if mass > 0 and sizes[y, s] == 0:
            raise ValueError(f"the test set has no image with y={y}, s={s}, so it cannot stand for {mass:.3g} of one")
        weights[inside] = mass / max(sizes[y, s], 1)
    return weights


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of a value per image, say correctness or Dice, under weights that sum to 1.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75]))
        tensor(0.2500, dtype=torch.float64)
    """
    return (torch.where(weights > 0, values, 0.0).double() * weights).sum()


def weighted_auroc(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    r"""AUROC of weighted images, :math:`P(s_+ > s_-) + ½ P(s_+ = s_-)`.

    It does not depend on P(y=1), but does on P(s=1|y): prevalence alone never moves an AUROC, company does.

    Args:
        scores: ``[N]``, larger = more positive.
        labels: ``[N]``, 1 = positive, 0 = negative.
        weights: ``[N]``, non-negative.

    Returns:
        0-dim float64; NaN where a side has no weight.

    Example:
        >>> scores, labels = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([1, 1, 0])
        >>> weighted_auroc(scores, labels, torch.tensor([0.3, 0.1, 0.6]))
        tensor(0.7500, dtype=torch.float64)
    """
    positive = labels == 1
    weights = weights.double()
    negatives, order = scores[~positive].sort()
    mass = torch.cat([weights.new_zeros(1), weights[~positive][order].cumsum(0)])
    below = mass[torch.searchsorted(negatives, scores[positive].contiguous(), right=False)]
    not_above = mass[torch.searchsorted(negatives, scores[positive].contiguous(), right=True)]
    sides = weights[positive].sum() * mass[-1]
    wins = (weights[positive] * (below + not_above)).sum() / 2
    return torch.where(sides > 0, wins / sides, torch.nan)


def prevalence_sweep(
    measure: Callable[[Tensor], Tensor | float], labels: Tensor, flags: Tensor, vary: Rate, rates: Sequence[float]
) -> list[SweepPoint]:
    """A measure as a function of one rate, the others as they are in the test set; nothing is inferred anew.

    A measure that bends with ``flag_given_…`` reads the artefact. Look at ``effective_images``: at the far ends
    few images carry all weight.

    Args:
        measure: from weights ``[N]`` to a value, say ``lambda w: weighted_auroc(scores, labels, w)``.
        labels: ``[N]``, 1 = positive, 0 = negative.
        flags: ``[N]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = left out.
        vary: the rate to set.
        rates: its values in [0, 1].

    Returns:
        One point per rate.

    Raises:
        ValueError: as `prevalence_weights`.

    Source: Mueller & Berens 2026 (prevalence ablation); theory §8.

    Example:
        >>> labels, flags = torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 1, 0])
        >>> correct = (flags == labels).double()  # it reads the artefact
        >>> sweep = prevalence_sweep(lambda w: weighted_mean(correct, w), labels, flags, "flag_given_positive", [0, 1])
        >>> [point.value for point in sweep]
        [0.25, 0.75]
    """
    points = []
    for rate in rates:
        weights = prevalence_weights(labels, flags, **{vary: rate})
        points.append(SweepPoint(rate, float(measure(weights)), 1 / float(weights.square().sum())))
    return points


def _check(labels: Tensor, flags: Tensor, rates: dict[str, float]) -> None:
    if labels.ndim != 1:
        raise ValueError(f"labels must be [N], got {list(labels.shape)}")
    check_flags(flags, labels)
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"labels must be 0 or 1, got {sorted(set(labels.tolist()))}; compare, say label == k")
    allowed = ("positive", "flag_given_positive", "flag_given_negative")
    if unknown := sorted(rates.keys() - set(allowed)):
        raise ValueError(f"no rate is called {unknown[0]!r}; the rates are {', '.join(allowed)}")
    for name, rate in rates.items():
        if not 0 <= rate <= 1 or math.isnan(rate):
            raise ValueError(f"{name} is a probability, got {rate}")
