"""Deletion capacity: how many samples a convex head can forget before the noise costs too much (theory §5)."""

from __future__ import annotations

import math
from collections.abc import Callable

from .checks import check_delta, check_positive
from .convex import SOFTMAX_SMOOTHNESS, newton_distance
from .gdp import gdp_mu


def softmax_excess_risk(sigma: float, *, distance: float, num_classes: int, ridge: float, parameters: int) -> float:
    """Largest mean excess of the objective, ``E F(w + σξ) - F*``, at ``distance`` from the minimiser.

    By the heat equation ``d/dt E F(w + √t ξ) = E tr ∇²F / 2``, and ``tr ∇²F ≤ 1 - 1/K + λd``: the trace of a pixel's
    Hessian is ``(1 - ‖p‖²) ‖φ‖²``. The smaller distance adds at most ``(1/2 + λ) distance²/2``.

    Args:
        sigma: σ >= 0, standard deviation of the noise per coordinate.
        distance: of the weights from the minimiser, before the noise.
        num_classes: K >= 2.
        ridge: λ > 0.
        parameters: d >= 1.

    Returns:
        Excess in nats; a bound for every data set, which a fitted head usually stays well below.

    Source:
        Theory §5, deletion capacity.

    Example:
        >>> round(softmax_excess_risk(0.1, distance=0.0, num_classes=2, ridge=1e-3, parameters=10), 5)
        0.00255
    """
    trace = 1 - 1 / num_classes + ridge * parameters
    return (trace * sigma**2 + (SOFTMAX_SMOOTHNESS + ridge) * distance**2) / 2


def curvature_excess_risk(sigma: float, *, distance: float, trace: float, largest: float) -> float:
    """Mean excess of the objective to second order, from its curvature at a fitted minimiser.

    ``E F(w* + e + σξ) - F* ≈ (tr ∇²F σ² + λ_max(∇²F) ‖e‖²)/2``: right for small noise, and no bound for large.

    Args:
        sigma: σ >= 0, standard deviation of the noise per coordinate.
        distance: ‖e‖, of the weights from the minimiser, before the noise.
        trace: of the Hessian at the minimiser, ridge included.
        largest: its largest eigenvalue.

    Returns:
        Excess in nats.

    Source:
        Theory §5, deletion capacity.

    Example:
        >>> round(curvature_excess_risk(0.1, distance=0.0, trace=0.5, largest=0.2), 5)
        0.0025
    """
    return (trace * sigma**2 + largest * distance**2) / 2


def deletion_capacity(
    epsilon: float,
    delta: float,
    *,
    samples: int,
    ridge: float,
    excess_risk: Callable[[float, float], float],
    budget: float = 0.01,
) -> int:
    """Largest m for which the Newton step at its calibrated noise stays within an excess risk.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        samples: n >= 1.
        ridge: λ > 0.
        excess_risk: maps (σ, distance from the minimiser) to the excess risk, non-decreasing in both;
            :func:`curvature_excess_risk` of a fitted head, or :func:`softmax_excess_risk`.
        budget: excess that is accepted; 0.01 in the definition.

    Returns:
        m between 0 and n.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Sekhari et al. 2021, Definition 3; theory §5.

    Example:
        >>> def bound(sigma, distance):
        ...     return softmax_excess_risk(sigma, distance=distance, num_classes=2, ridge=0.01, parameters=10)
        >>> deletion_capacity(1.0, 1e-5, samples=10_000, ridge=0.01, excess_risk=bound)
        2
    """
    check_positive(budget=budget)
    mu = gdp_mu(epsilon, delta)

    def fits(changed: int) -> bool:
        distance = newton_distance(samples=samples, changed=changed, ridge=ridge)
        return excess_risk(distance / mu, distance) <= budget  # as newton_sigma, with its search for μ done once

    if not fits(1):
        return 0
    low, high = 1, samples + 1  # fits(low) holds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def newton_capacity_rate(epsilon: float, delta: float, *, samples: int, parameters: int) -> float:
    """Asymptotic deletion capacity of the Newton step, constants left out: ``n √ε / (d ln 1/δ)^{1/4}``.

    Args:
        epsilon: ε > 0.
        delta: δ in (0, 1).
        samples: n >= 1.
        parameters: d >= 1.

    Returns:
        The rate; only its growth means anything.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Sekhari et al. 2021, Theorem 2; theory §5.

    Example:
        >>> round(newton_capacity_rate(1.0, 1e-5, samples=1000, parameters=10), 1)
        305.3
    """
    check_positive(epsilon=epsilon, samples=samples, parameters=parameters)
    check_delta(delta)
    return samples * math.sqrt(epsilon) / math.sqrt(math.sqrt(-parameters * math.log(delta)))


def privacy_capacity_rate(epsilon: float, delta: float, *, samples: int, parameters: int) -> float:
    """Deletion capacity that differential privacy alone gives: ``n ε / sqrt(d ln(e^ε/δ))``.

    Args:
        epsilon: ε > 0.
        delta: δ in (0, 1).
        samples: n >= 1.
        parameters: d >= 1.

    Returns:
        The rate; only its growth means anything.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Sekhari et al. 2021, Section 3.2; theory §5.

    Example:
        >>> round(privacy_capacity_rate(1.0, 1e-5, samples=1000, parameters=10), 1)
        89.4
    """
    check_positive(epsilon=epsilon, samples=samples, parameters=parameters)
    check_delta(delta)
    return samples * epsilon / math.sqrt(parameters * (epsilon - math.log(delta)))
