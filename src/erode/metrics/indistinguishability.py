"""Pixel indistinguishability: the smallest ε that two ensembles of models allow (theory §8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, cat

from .resampling import exact_binomial

Shares = NDArray[np.float64]
"""Of each model, ``[M, events]``: the part of a slice's pixels that it calls one class."""


@dataclass(frozen=True)
class PixelIndistinguishability:
    """What `pixel_indistinguishability` found.

    Args:
        epsilon: no (ε, δ) certificate with a smaller ε can be true, with the confidence asked for.
        artefact: s of the slice whose pixels the event is about.
        true_class: y of the slice.
        called: class k that the event counts.
        threshold: the event: a model calls at least this share of the slice k.
        rates: how many of the unlearnt and of the reference models that were not used to choose the event fired.
        models: how many of each there were to fire.
        ceiling: the largest ε that so many could have shown, had one always fired and the other never: an ε certified
            above it cannot be refuted with so few models.
    """

    epsilon: float
    artefact: int
    true_class: int
    called: int
    threshold: float
    rates: tuple[int, int]
    models: tuple[int, int]
    ceiling: float


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
    r"""Empirical lower bound on ε from how often two ensembles call much of a slice of pixels one class.

    A certificate promises :math:`P(E) ≤ e^ε P_{ref}(E) + δ` and the reverse for every event E of the released weights,
    over the *algorithm's* randomness. The events here: a model calls at least a share t of the test pixels with
    artefact s and true class y the class k. **The independent unit is the model, not the pixel**: the test images are
    fixed, all pixels of one model share its one draw of weights, and counting them as trials would shrink the interval
    by a factor of hundreds and refute true certificates.

    Every second model of each ensemble chooses the slice, the class and t at which the two differ most; the others, of
    which the choice knows nothing, are counted, and exact binomial intervals (both ends of both rates share
    1 - confidence) bound ε.

    Every model must be a complete independent run: own noise, own start where the certificate's reference has
    one. The bound is one-sided: a small value does not prove a certificate, and up to ten models of each can show
    nothing at all (``ceiling`` is 0).

    Args:
        unlearnt: pixel counts ``[M, S=2, Y, Z]``, one table ``counts`` of `SliceCounts` per unlearnt model, M ≥ 2.
        reference: the same ``[R, S=2, Y, Z]`` of runs of the reference algorithm, on the same images, R ≥ 2.
        delta: δ of the certificate, in [0, 1].
        confidence: that the true ε is no smaller than what is returned, in (0, 1).

    Returns:
        Lower bound on ε, and the event that gave it.

    Raises:
        ValueError: for tables of other shapes, single models, other images in the two ensembles, or values out of
            range.

    Source: theory §8; Clopper & Pearson 1934; auditing by a chosen event: Jagielski et al., NeurIPS 2020.

    Example:
        >>> import torch
        >>> always, never = torch.tensor([0, 9]).expand(50, 2, 2, 2), torch.tensor([9, 0]).expand(50, 2, 2, 2)
        >>> found = pixel_indistinguishability(always, never, delta=1e-7)
        >>> round(found.epsilon, 2), found.epsilon == found.ceiling, found.rates
        (1.65, True, (25, 0))
    """
    _check(unlearnt, reference, delta, confidence)
    pixels = unlearnt[0].sum(-1)
    slices = [
        (s, y, k)
        for s in range(2)
        for y in range(pixels.shape[1])
        for k in range(1, unlearnt.shape[-1])
        if pixels[s, y] > 0
    ]
    one, other = (_shares(counts, slices) for counts in (unlearnt, reference))
    alpha = (1 - confidence) / 4  # two rates, two ends each
    event, threshold = _choose(one[1::2], other[1::2], delta)
    fired = [int((shares[::2, event] >= threshold).sum()) for shares in (one, other)]
    models = len(one[::2]), len(other[::2])
    interval = partial(exact_binomial, confidence=1 - 2 * alpha)
    found = interval(fired[0], models[0]), interval(fired[1], models[1])
    ends = interval(models[0], models[0]), interval(0, models[1])
    s, y, k = slices[event]
    return PixelIndistinguishability(
        smallest_epsilon(*found, delta),
        s,
        y,
        k,
        threshold,
        (fired[0], fired[1]),
        models,
        smallest_epsilon(*ends, delta),
    )


def _shares(counts: Tensor, slices: list[tuple[int, int, int]]) -> Shares:
    table = counts.cpu().numpy().astype(np.float64)
    return np.stack([table[:, s, y, k] / table[:, s, y].sum(-1) for s, y, k in slices], axis=1)


def _choose(one: Shares, other: Shares, delta: float) -> tuple[int, float]:
    """Event and threshold at which the two differ most, by rates that are held away from 0 and 1."""
    best, chosen = -1.0, (0, 0.5)
    for event in range(one.shape[1]):
        for threshold in np.unique(np.concatenate([one[:, event], other[:, event]])):
            p, q = (((shares[:, event] >= threshold).sum() + 1) / (len(shares) + 2) for shares in (one, other))
            epsilon = smallest_epsilon((p, p), (q, q), delta)
            if epsilon > best:
                best, chosen = epsilon, (event, _between(one[:, event], other[:, event], float(threshold)))
    return chosen


def _between(one: Shares, other: Shares, threshold: float) -> float:
    """Halfway to the next smaller value, so that models that were not seen need not reach the very one."""
    both = np.concatenate([one, other])
    below = both[both < threshold]
    return threshold if not len(below) else float((threshold + below.max()) / 2)


def _check(unlearnt: Tensor, reference: Tensor, delta: float, confidence: float) -> None:
    shapes = [list(unlearnt.shape), list(reference.shape)]
    if (
        unlearnt.ndim != 4
        or unlearnt.shape[1:] != reference.shape[1:]
        or unlearnt.shape[1] != 2
        or unlearnt.shape[-1] < 2
        or 0 in shapes[0] + shapes[1]
    ):
        raise ValueError(
            f"need tables [M, S=2, Y, Z >= 2] and [R, S=2, Y, Z] of SliceCounts, got {shapes[0]} and {shapes[1]}"
        )
    if min(len(unlearnt), len(reference)) < 2:
        raise ValueError("one model chooses what another is asked; give two or more of each ensemble")
    pixels = cat([unlearnt, reference]).sum(-1)
    if not bool((pixels == pixels[0]).all()):
        raise ValueError("the models did not see the same pixels; evaluate every model on the same test images")
    if int(pixels[0].sum()) == 0:
        raise ValueError("no pixel has an annotated artefact; slices by artefact need artefact maps")
    if not 0 <= delta <= 1 or not 0 < confidence < 1:
        raise ValueError(f"need 0 <= delta <= 1 and 0 < confidence < 1, got {delta} and {confidence}")
