"""Model clipping: noise on weights that are projected to a ball at every step (theory §4)."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from .checks import check_delta, check_non_negative, check_positive, check_steps
from .clipping import Reference, check_reference
from .gdp import gdp_delta, gdp_mu
from .rounding import rounded_down

_MAX_STEPS = 100_000


def model_clipping_delta(
    epsilon: float, *, radius: float, sigma: float, steps: int, initial_delta: float = 1.0
) -> float:
    """δ after T steps of model clipping, for both the ``retrained`` and the ``anchor`` reference.

    ``δ_{t+1} = δ_t θ_{ε_t}(2 C2/σ)`` with ``ε_t = ln(1 + (e^ε - 1)/δ_t)`` and θ = ``gdp_delta``: two points
    of the ball are at most 2 C2 apart, and only the part δ_t that the last step could tell apart is left to
    hide. As ``ε_t ≥ ε`` and ``δ_t ≤ 1``, this never exceeds ``θ_ε(2 C2/σ)``, the last step alone.

    Args:
        epsilon: ε >= 0.
        radius: C2 > 0, norm to which the weights are clipped around the anchor at each step, before the
            noise.
        sigma: σ > 0, standard deviation of the noise per coordinate, the same at each step.
        steps: T >= 1.
        initial_delta: δ of the start at the same ε: 1, or ``gdp_delta(Δ/σ_0, ε)`` for a start with noise σ_0.

    Returns:
        δ in [0, 1].

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Koloskova et al. 2025 (mechanism); Asoodeh et al. 2020, Balle et al. 2018 (contraction of the
        hockey-stick divergence, advanced joint convexity); theory §4.

    Example:
        >>> f"{model_clipping_delta(1.0, radius=1.0, sigma=1.0, steps=6):.1e}"
        '2.7e-08'
    """
    check_non_negative(epsilon=epsilon)
    check_positive(radius=radius, sigma=sigma)
    check_steps(steps)
    if not 0 <= initial_delta <= 1:
        raise ValueError(f"initial_delta must lie between 0 and 1, got {initial_delta}")
    return _iterate(epsilon, 2 * radius / sigma, steps, initial_delta)


def contraction_steps(epsilon: float, delta: float, radius: float, sigma: float) -> int:
    """Smallest number of model-clipping steps that is (ε, δ)-certified.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        radius: C2 > 0, norm to which the weights are clipped around the anchor at each step, before the
            noise.
        sigma: σ > 0, standard deviation of the noise per coordinate.

    Returns:
        T >= 1.

    Raises:
        ValueError: if an argument is out of range, or if more than 100,000 steps are needed.

    Source:
        As ``model_clipping_delta``; theory §4.

    Example:
        >>> [contraction_steps(1.0, 1e-5, radius=ratio / 2, sigma=1.0) for ratio in (0.2, 2.0, 2.5, 3.9)]
        [1, 6, 9, 36]
    """
    check_non_negative(epsilon=epsilon)
    check_delta(delta)
    check_positive(radius=radius, sigma=sigma)
    reached = 1.0
    for step in range(1, _MAX_STEPS + 1):
        reached = _contract(epsilon, 2 * radius / sigma, reached)
        if reached <= delta:
            return step
    raise ValueError(
        f"more than {_MAX_STEPS} steps are needed at 2 radius / sigma = {2 * radius / sigma:.3g}; raise "
        f"sigma or lower radius (one step is enough at {rounded_down(gdp_mu(epsilon, delta), 3)})"
    )


def model_clipping_sigma(
    epsilon: float, delta: float, *, radius: float, steps: int, reference: Reference = "retrained"
) -> float:
    """Noise of each step that makes T steps of model clipping (ε, δ)-certified.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        radius: C2 > 0, norm to which the weights are clipped around the anchor at each step, before the
            noise.
        steps: T >= 1.
        reference: see ``Reference``. ``retrained`` and ``anchor`` need the same noise, as the start is
            forgotten. ``noise`` is one Gaussian around the anchor, at distance C2 of the last step: half the
            noise for ``steps = 1``, but it does not fall with more steps, since two different steps do not
            contract.

    Returns:
        σ, standard deviation of the noise per coordinate.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        As ``model_clipping_delta``; theory §4.

    Example:
        >>> sigma = model_clipping_sigma(1.0, 1e-5, radius=1.0, steps=6)
        >>> round(sigma, 3), contraction_steps(1.0, 1e-5, radius=1.0, sigma=sigma)
        (0.951, 6)
    """
    check_reference(reference)
    check_positive(radius=radius)
    check_steps(steps)
    lower = gdp_mu(epsilon, delta)  # the ratio 2 C2/σ that one step allows
    if reference == "noise":
        return radius / lower

    def excess(ratio: float) -> float:
        reached = _iterate(epsilon, ratio, steps)
        return math.log(max(reached, np.finfo(float).tiny) / delta)

    if steps == 1:
        return 2 * radius / lower
    upper = 2 * lower
    while excess(upper) < 0:
        upper *= 2
    ratio = float(brentq(excess, lower / 2, upper, xtol=1e-300, rtol=1e-14))
    return 2 * radius / ratio * (1 + 1e-12)  # rounding must not cost the certificate


def _iterate(epsilon: float, ratio: float, steps: int, delta: float = 1.0) -> float:
    """δ after ``steps`` contractions, ``ratio = 2 C2/σ``."""
    for _ in range(steps):
        delta = _contract(epsilon, ratio, delta)
    return delta


def _contract(epsilon: float, ratio: float, delta: float) -> float:
    """One step of the recursion: ``δ θ_{ln(1 + (e^ε - 1)/δ)}(ratio)``."""
    if delta == 0 or epsilon == 0:  # at ε = 0 the total variation is multiplied by θ_0
        return delta * gdp_delta(ratio, 0.0)
    log_odds = epsilon + math.log(-math.expm1(-epsilon)) - math.log(delta)
    return delta * gdp_delta(ratio, float(np.logaddexp(0.0, log_odds)))
