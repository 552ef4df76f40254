"""Pixel indistinguishability: the smallest ε that two ensembles of models allow (theory §8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import beta
from torch import Tensor

ROUNDING = 1e-9
"""Sums of rates this close to a whole number are that number."""


@dataclass(frozen=True)
class PixelIndistinguishability:
    """What `pixel_indistinguishability` found.

    Args:
        epsilon: no (ε, δ) certificate with a smaller ε can be true, with the confidence asked for.
        per_slice: the same ``[S=2, Y, K]`` by artefact, true class and foreground class; 0 where the slice has no
            pixel. Its largest entry is ``epsilon``.
        ceiling: the largest ε that ensembles of this size could have shown, had one always fired and the other
            never: an ε certified above it cannot be refuted with so few models.
        tests: number of slices and classes that shared the error probability.
    """

    epsilon: float
    per_slice: Tensor
    ceiling: float
    tests: int


def rate_interval(total: float, models: int, alpha: float, spread: bool) -> tuple[float, float]:
    r"""Interval for the mean of a quantity in [0, 1] of which every model gives one value.

    Clopper-Pearson, each end at level α, where the values are 0 or 1. Where they may lie between (``spread``),
    Bentkus (2004) bounds the tail of their sum by e times that of the binomial: Clopper-Pearson with the sum
    rounded outwards and level α/e.

    Args:
        total: sum of the values over models.
        models: number of independent models.
        alpha: error probability of each end.
        spread: whether values other than 0 and 1 are possible.

    Returns:
        Lower and upper end.

    Example:
        >>> [round(end, 4) for end in rate_interval(3.0, 10, alpha=0.025, spread=False)]
        [0.0667, 0.6525]
    """
    level = alpha / math.e if spread else alpha
    fired, most = math.floor(total + ROUNDING), math.ceil(total - ROUNDING)
    low = float(beta.ppf(level, fired, models - fired + 1)) if fired > 0 else 0.0
    high = float(beta.ppf(1 - level, most + 1, models - most)) if most < models else 1.0
    return low, high


def smallest_epsilon(one: tuple[float, float], other: tuple[float, float], delta: float) -> float:
    r"""Smallest ε ≥ 0 for which some pair of rates in two intervals is (ε, δ)-indistinguishable.

    Of :math:`p ≤ e^ε q + δ`, for the event and its complement, in both directions.

    Args:
        one: interval of the rate of the one algorithm.
        other: interval of that of the other.
        delta: δ in [0, 1].

    Returns:
        ε; 0 where the intervals overlap.

    Example:
        >>> round(smallest_epsilon((0.8, 0.9), (0.2, 0.3), delta=0.0), 4)  # ln(.7 / .2), of the complements
        1.2528
    """
    ratios = []
    for (low, high), (other_low, other_high) in ((one, other), (other, one)):
        ratios.append((low - delta, other_high))
        ratios.append((1 - high - delta, 1 - other_low))
    return max([0.0, *(math.log(above / below) if below > 0 else math.inf for above, below in ratios if above > 0)])


def pixel_indistinguishability(
    unlearnt: Tensor, reference: Tensor, delta: float, confidence: float = 0.95
) -> PixelIndistinguishability:
    r"""Empirical lower bound on ε from how often two ensembles call the pixels of each slice each class.

    A certificate promises, for every image and therefore for every slice of the test pixels,
    :math:`P(Z=k|S=s,Y=y) ≤ e^ε P_{ref}(Z=k|S=s,Y=y) + δ` and the reverse, over the *algorithm's* randomness. So
    **the independent unit is the model, not the pixel**: the test images are fixed, all pixels of one model
    share its one draw of weights, and counting them as trials would shrink the interval by a factor of hundreds
    and refute true certificates. Each model contributes one number per slice and class, the share of the slice
    it calls k; `rate_interval` bounds its mean. (A slice of a single pixel gives 0 or 1, and the interval is
    plain Clopper-Pearson.) All slices, foreground classes, ensembles and ends share 1 − confidence (Bonferroni).

    Every model must be a complete independent run: own noise, own start where the certificate's reference has
    one. The bound is one-sided: a small value does not prove a certificate.

    Args:
        unlearnt: pixel counts ``[M, S=2, Y, Z]``, one table ``counts`` of `SliceCounts` per unlearnt model.
        reference: the same ``[R, S=2, Y, Z]`` of runs of the reference algorithm, on the same images.
        delta: δ of the certificate, in [0, 1].
        confidence: that the true ε is no smaller than what is returned, in (0, 1).

    Returns:
        Lower bound on ε, overall and per slice.

    Raises:
        ValueError: for tables of other shapes, other images in the two ensembles, or values out of range.

    Source: theory §8; Bentkus, On Hoeffding's inequalities, Ann. Probab. 2004; Clopper & Pearson 1934.

    Example:
        >>> always, never = torch.tensor([0, 9]).expand(50, 2, 2, 2), torch.tensor([9, 0]).expand(50, 2, 2, 2)
        >>> found = pixel_indistinguishability(always, never, delta=1e-7)
        >>> round(found.epsilon, 2), found.epsilon == found.ceiling
        (1.93, True)
    """
    _check(unlearnt, reference, delta, confidence)
    pixels = unlearnt[0].sum(-1)
    filled = [(s, y) for s in range(2) for y in range(pixels.shape[1]) if pixels[s, y] > 0]
    classes = unlearnt.shape[-1] - 1
    tests = len(filled) * classes
    alpha = (1 - confidence) / (4 * tests)  # two ensembles, two ends each
    per_slice = torch.zeros(2, pixels.shape[1], classes, dtype=torch.float64)
    for s, y in filled:
        spread = int(pixels[s, y]) > 1
        for k in range(classes):
            one, other = (
                rate_interval(int(counts[:, s, y, k + 1].sum()) / int(pixels[s, y]), len(counts), alpha, spread)
                for counts in (unlearnt, reference)
            )
            per_slice[s, y, k] = smallest_epsilon(one, other, delta)
    ceiling = _ceiling(len(unlearnt), len(reference), alpha, not bool((pixels == 1).any()), delta)
    return PixelIndistinguishability(float(per_slice.max()), per_slice, ceiling, tests)


def _ceiling(models: int, references: int, alpha: float, spread: bool, delta: float) -> float:
    always, never = (rate_interval(rate * n, n, alpha, spread) for rate, n in ((1, models), (0, references)))
    return smallest_epsilon(always, never, delta)


def _check(unlearnt: Tensor, reference: Tensor, delta: float, confidence: float) -> None:
    shapes = [list(unlearnt.shape), list(reference.shape)]
    if (
        unlearnt.ndim != 4
        or unlearnt.shape[1:] != reference.shape[1:]
        or unlearnt.shape[1] != 2
        or 0 in shapes[0] + shapes[1]
    ):
        raise ValueError(
            f"need tables [M, S=2, Y, Z] and [R, S=2, Y, Z] of SliceCounts, got {shapes[0]} and {shapes[1]}"
        )
    pixels = torch.cat([unlearnt, reference]).sum(-1)
    if not bool((pixels == pixels[0]).all()):
        raise ValueError("the models did not see the same pixels; evaluate every model on the same test images")
    if int(pixels[0].sum()) == 0:
        raise ValueError("no pixel has an annotated artefact; slices by artefact need artefact maps")
    if not 0 <= delta <= 1 or not 0 < confidence < 1:
        raise ValueError(f"need 0 <= delta <= 1 and 0 < confidence < 1, got {delta} and {confidence}")
