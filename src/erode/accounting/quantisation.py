"""How a smoothed quantiser decides, and how many removals cannot change what it decides (theory §5, PCMU)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from .checks import check_non_negative

GRID = 2**30
"""Steps between 0 and the clip bound b: clipped gradients are whole numbers of them."""


def quantiser_probabilities(gradient: float, kappa: float, sigma: float) -> tuple[float, float, float]:
    """Probability that ``Q_κ(g + η)``, η ~ N(0, σ²), is -1, 0 and 1; Q_κ is 0 within ±κ and the sign outside.

    Args:
        gradient: g, one coordinate of the mean gradient.
        kappa: κ >= 0, in the units of g.
        sigma: σ > 0, in the units of g.

    Source:
        Zhang Z. et al. 2022, section 4; theory §5.

    Example:
        >>> [round(p, 4) for p in quantiser_probabilities(0.0, kappa=1.0, sigma=1.0)]
        [0.1587, 0.6827, 0.1587]
    """
    below, above = float(ndtr((-kappa - gradient) / sigma)), float(ndtr((gradient - kappa) / sigma))
    return below, 1 - below - above, above


def smoothed_threshold(kappa: float, sigma: float) -> float:
    """τ at which the likeliest value of ``Q_κ(g + η)`` turns from 0 to the sign of g.

    ``S(g) = argmax_a P[Q_κ(g + η) = a]`` is symmetric, and for g >= 0 the difference ``P(1) - P(0)`` rises with g:
    its slope is ``2φ((g-κ)/σ) - φ((g+κ)/σ) > 0``. So S(g) is 0 up to one threshold τ < κ and the sign of g above.

    Args:
        kappa: κ >= 0.
        sigma: σ >= 0; 0 = no smoothing.

    Returns:
        τ in [0, κ]; 0 where ``κ < 0.4307 σ``: then 0 is never the likeliest.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> smoothed_threshold(1.0, 0.0), round(smoothed_threshold(1.0, 1.0), 4), smoothed_threshold(0.4, 1.0)
        (1.0, 0.9693, 0.0)
    """
    check_non_negative(kappa=kappa, sigma=sigma)
    if sigma == 0:
        return kappa

    def lead(gradient: float) -> float:
        _, zero, above = quantiser_probabilities(gradient, kappa, sigma)
        return above - zero

    if lead(0.0) >= 0:
        return 0.0
    return float(brentq(lead, 0.0, kappa, xtol=1e-16 * kappa)) if lead(kappa) > 0 else kappa


def removal_budget(total: NDArray[np.int64], samples: int, threshold: int, grid: int = GRID) -> NDArray[np.int64]:
    r"""Largest number of samples whose removal, whichever they are, cannot change a quantised coordinate.

    All gradients are whole numbers, ``|q_i| ≤ grid``, their sum Σ, and the quantised value is the sign of Σ where
    ``|Σ| > τ n``, else 0. Removing m samples leaves ``n - m`` and takes away at most ``m grid``:

    - nonzero stays as it is iff ``|Σ| - m grid > τ (n - m)``, so ``m < (|Σ| - τ n)/(grid - τ)``;
    - zero stays zero iff ``|Σ| + m grid ≤ τ (n - m)``, so ``m ≤ (τ n - |Σ|)/(grid + τ)``.

    With ``ρ = ||g| - τ|`` and b for ``grid``, these are ``m < ρn/(ρ + b - |g|)`` and ``m ≤ ρn/(ρ + b + |g|)``. Theory
    §5 has the second for both. That is valid, because g moves by at most ``m(|g| + b)/(n - m)``, but loose for the
    first, because towards 0 it moves by at most ``m(b - |g|)/(n - m)``. Both are attained where m samples lie at the
    bound. There is no rounding: sums of whole numbers are exact in any order.

    Args:
        total: Σ of each coordinate.
        samples: n >= 1; ``n grid < 2^62``.
        threshold: τ in whole numbers, 0 <= τ < grid.
        grid: the clip bound in whole numbers.

    Returns:
        B >= 0 of each coordinate, at most n - 1.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Zhang Z. et al. 2022 (idea); theory §5.

    Example:
        >>> removal_budget(np.array([100, 40, 0]), samples=10, threshold=5, grid=10)
        array([9, 0, 3])
    """
    if not 0 <= threshold < grid:
        raise ValueError(f"threshold must lie in [0, {grid}), got {threshold}: above the clip bound nothing ever moves")
    if samples < 1 or samples * grid >= 2**62:
        raise ValueError(f"samples must lie in [1, {2**62 // grid}), got {samples}")
    size = np.abs(total)
    if size.size and int(size.max()) > samples * grid:
        raise ValueError(f"a sum exceeds samples * grid = {samples * grid}; clip each sample's gradient first")
    beyond = size - threshold * samples
    moved = (beyond - 1) // (grid - threshold)
    still = -beyond // (grid + threshold)
    return np.minimum(np.where(beyond > 0, moved, still), samples - 1)
