"""From a certificate to a metric: where S_global of the reference must lie (theory §7.3)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .information import table_information


@dataclass(frozen=True)
class CertifiedInterval:
    """What an (ε, δ) certificate says about the reference, in nats per image.

    Args:
        low: S_global of the reference is at least this.
        high: and at most this.
        per_class: ``[num_classes - 1, 2]``, the same for the term of each foreground class.
        bound: closed-form bound on ``|S_global(unlearnt) − S_global(reference)|``; NaN with several foreground
            classes (it is proved for binary Y) or δ > 1/e.
    """

    low: float
    high: float
    per_class: Tensor
    bound: float


def certified_box(a: Tensor, pi: Tensor, epsilon: float, delta: float) -> tuple[Tensor, Tensor]:
    r"""Where the reference's masses ``b`` lie, given those of the unlearnt model.

    .. math:: b_{syk} ∈ [e^{-ε} (a_{syk} - δπ_{sy}), \; e^{ε} a_{syk} + δπ_{sy}]

    The event :math:`Z ≠ k` is certified as well, so the same holds for :math:`π - b` and :math:`π - a`. Both
    boxes are intersected: far narrower where a model is nearly sure.

    Args:
        a: joint masses ``P(S=s, Y=y, Z=k)``, any shape.
        pi: ``P(S=s, Y=y) ≥ a``, broadcast with ``a``.
        epsilon: ε ≥ 0.
        delta: δ in [0, 1].

    Returns:
        Lower and upper ends, float64.

    Example:
        >>> low, high = certified_box(torch.tensor([0.2]).double(), torch.tensor([1.0]).double(), 0.0, 0.1)
        >>> low, high
        (tensor([0.1000], dtype=torch.float64), tensor([0.3000], dtype=torch.float64))
    """
    slack, off = delta * pi, pi - a
    grow = math.exp(min(epsilon, 700.0))  # beyond, only [0, π] is left
    low = torch.maximum((a - slack) / grow, pi - grow * off - slack)
    high = torch.minimum(grow * a + slack, pi - (off - slack) / grow)
    # a itself is always allowed: rounding in π − (π − a) must not leave it outside.
    return torch.minimum(low.clamp(min=0.0), a), torch.maximum(torch.minimum(high, pi), a)


def information_range(low: Tensor, high: Tensor) -> tuple[float, float]:
    r"""Exact range of :math:`f(b) = b_{++} I(S;Y)` over a box of tables ``[2, Y]``.

    ``∂f/∂b_sy = ln(b_sy b_++ / (b_s+ b_+y))`` changes sign at most once, from − to +, as b_sy grows, so f is
    quasi-convex in each cell and its *maximum* sits in a corner of the box. There no column can be improved,
    which leaves the 2^Y corners that give each column its largest or its smallest ratio b_1y / b_0y.

    For the *minimum*, ``f(b) = min_q Σ_y c_y KL(p_y ‖ q)``, with c_y the sum of column y and p_y = b_1y / c_y.
    At fixed q each column is best where p_y is nearest to q (0 if it can be q), which leaves a convex function of
    q alone; between two breakpoints it is least at the pooled ratio of the columns that cannot reach q.

    Args:
        low: lower ends ≥ 0, ``[2, Y]``.
        high: upper ends, ``[2, Y]``.

    Returns:
        Minimum and maximum, in nats.

    Raises:
        ValueError: for boxes of other shapes, empty ones, or more than 16 columns.

    Source: theory §7.3.

    Example:
        >>> table = torch.tensor([[0.4, 0.1], [0.1, 0.4]])
        >>> least, most = information_range(table, table)  # a point
        >>> abs(least - most) < 1e-12, round(most, 4)
        (True, 0.1927)
    """
    low, high = low.double().cpu(), high.double().cpu()
    if low.ndim != 2 or low.shape[0] != 2 or low.shape != high.shape or not 1 <= low.shape[1] <= 16:
        raise ValueError(f"boxes must be [2, Y] with 1 <= Y <= 16, got {list(low.shape)} and {list(high.shape)}")
    if bool((low < 0).any()) or not bool((low <= high).all()):
        raise ValueError("every cell needs 0 <= low <= high")
    rising, falling = torch.stack([low[0], high[1]]), torch.stack([high[0], low[1]])  # largest, smallest b_1/b_0
    corners = torch.tensor(list(itertools.product((True, False), repeat=low.shape[1])))
    most = float(table_information(torch.where(corners[:, None], rising, falling)).max())
    return min(_least(low, high), most), most


def _least(low: Tensor, high: Tensor) -> float:
    """The minimum over the box: a convex function of q, searched piece by piece."""
    columns = []  # (mass off, mass on, ratio) with the smallest and with the largest ratio
    for off_low, on_low, off_high, on_high in zip(*low.tolist(), *high.tolist(), strict=True):
        if off_low == on_low == 0:
            continue  # the column can be empty, and then says nothing
        columns.append(
            ((off_high, on_low, on_low / (off_high + on_low)), (off_low, on_high, on_high / (off_low + on_high)))
        )
    ends = sorted({0.0, 1.0, *(ratio for pair in columns for *_, ratio in pair)})
    return min((_at(columns, q) for q in _candidates(columns, ends)), default=0.0)


_Column = tuple[tuple[float, float, float], tuple[float, float, float]]


def _candidates(columns: list[_Column], ends: list[float]) -> list[float]:
    """Breakpoints, and between each two of them the pooled ratio of the columns that cannot reach q."""
    found = list(ends)
    for left, right in itertools.pairwise(ends):
        middle = (left + right) / 2
        active = [corner for column in columns if (corner := _nearest(column, middle)) is not None]
        mass = sum(off + on for off, on, _ in active)
        if mass > 0:
            found.append(min(max(sum(on for _, on, _ in active) / mass, left), right))
    return found


def _nearest(column: _Column, q: float) -> tuple[float, float, float] | None:
    """The corner of a column whose ratio is nearest to q; None if the column can have ratio q."""
    smallest, largest = column
    if q < smallest[2]:
        return smallest
    return largest if q > largest[2] else None


def _at(columns: list[_Column], q: float) -> float:
    total = 0.0
    for column in columns:
        if (corner := _nearest(column, q)) is not None:
            off, on, ratio = corner
            total += _term(off, 1 - ratio, 1 - q) + _term(on, ratio, q)
    return max(total, 0.0)


def _term(mass: float, ratio: float, q: float) -> float:
    if mass == 0:
        return 0.0
    return mass * math.log(ratio / q) if q > 0 else math.inf


def information_gap_bound(information: float, mass: float, epsilon: float, delta: float) -> float:
    r"""Closed-form bound on how far apart f(a) and f(b) can be, for binary S and Y.

    .. math:: |f(a) - f(b)| ≤ (e^ε - 1)(f + 2m/e) + 4 ε e^ε m + 9 δ \ln(1/δ)

    with f and m of either of the two, since the certificate is symmetric. Loose by about a factor 8;
    `information_range` is exact.

    Args:
        information: f = P(Z=k) I(S;Y|Z=k), in nats.
        mass: m = P(Z=k).
        epsilon: ε ≥ 0.
        delta: δ in [0, 1/e].

    Returns:
        The bound in nats per pixel.

    Raises:
        ValueError: for ε < 0 or δ outside [0, 1/e].

    Source: theory §7.3.

    Example:
        >>> information_gap_bound(0.1, 0.4, epsilon=0.0, delta=0.0)
        0.0
    """
    _check_privacy(epsilon, delta)
    if delta > 1 / math.e:
        raise ValueError(f"the closed form holds for delta <= 1/e = 0.368, got {delta}; use information_range")
    if epsilon > 700:
        return math.inf
    grow = math.exp(epsilon)
    additive = 9 * delta * math.log(1 / delta) if delta else 0.0
    return math.expm1(epsilon) * (information + 2 * mass / math.e) + 4 * epsilon * grow * mass + additive


def certified_interval(counts: Tensor, images: int, epsilon: float, delta: float) -> CertifiedInterval:
    r"""Where S_global of the certificate's reference lies, given the unlearnt model's predictions.

    A certificate on weights holds for every image, hence for every slice (S, Y) of the test pixels, hence for the
    table of one class over all of them: this is the range of the *pooled* estimator of `GlobalSpuriousInformation`
    over everything the certificate allows. Nothing is assumed about the overlap of artefact and lesion.

    Three things it does not say. The reference is the one the certificate names: the same algorithm without the
    forget set, not a network trained on every fine mask. The certificate bounds *probabilities over the
    algorithm's randomness*, and one released model is one draw: sum the counts of several independent redraws
    (``counts.sum(0)``, ``images`` times their number), and read the interval of a single draw as an estimate. And
    a certificate of pixels given Y alone would not do: the (0, 0)-certified counterexample is in theory §7.3.

    Args:
        counts: pixels ``[S=2, Y, Z]`` of `SliceCounts`, the last axis with background first.
        images: number of images, as `SliceCounts` gives it, redraws included; S_global is per image.
        epsilon: ε ≥ 0.
        delta: δ in [0, 1]; the interval widens with |Λ|·δ.

    Returns:
        Interval and closed-form bound.

    Raises:
        ValueError: for counts of another shape, without a pixel, or ε < 0 or δ outside [0, 1].

    Source: theory §7.3.

    Example:
        >>> counts = torch.tensor([[[28, 7], [0, 30]], [[28, 7], [0, 0]]])  # P(Y=1)=.3, P(S=1|Y=0)=.5, fires on .2
        >>> found = certified_interval(counts, images=100, epsilon=0.1, delta=0.0)
        >>> round(found.low, 3), round(found.high, 3)
        (0.085, 0.108)
    """
    _check_privacy(epsilon, delta)
    if counts.ndim != 3 or counts.shape[0] != 2 or counts.shape[2] < 2 or images < 1 or not bool(counts.sum() > 0):
        raise ValueError(
            f"need pixel counts [S=2, Y, Z] with annotated pixels and at least one image, got {list(counts.shape)} "
            f"with {int(counts.sum())} pixels and {images} images; count with SliceCounts"
        )
    pixels = float(counts.sum())
    masses, per_image = counts.double().cpu() / pixels, pixels / images
    low, high = certified_box(masses, masses.sum(2, keepdim=True), epsilon, delta)
    ranges = [information_range(low[..., k], high[..., k]) for k in range(1, counts.shape[2])]
    per_class = torch.tensor(ranges, dtype=torch.float64) * per_image
    ends = per_class.max(0).values.tolist()
    return CertifiedInterval(ends[0], ends[1], per_class, _bound(masses, epsilon, delta) * per_image)


def _bound(masses: Tensor, epsilon: float, delta: float) -> float:
    if masses.shape[1:] != (2, 2) or delta > 1 / math.e:
        return math.nan
    table = masses[..., 1]
    return information_gap_bound(float(table_information(table)), float(table.sum()), epsilon, delta)


def _check_privacy(epsilon: float, delta: float) -> None:
    if not epsilon >= 0 or not 0 <= delta <= 1:
        raise ValueError(f"need epsilon >= 0 and 0 <= delta <= 1, got {epsilon} and {delta}")
