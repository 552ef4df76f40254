r"""Exact conversion between μ-GDP and (ε, δ) (theory §3).

``δ(ε; μ) = Φ(-a) - e^ε Φ(-b)`` with ``a = ε/μ - μ/2`` and ``b = ε/μ + μ/2 = a + μ``. For small δ both terms
are tiny and nearly equal. As ``e^ε φ(b) = φ(a)``, the same number is ``φ(a) (M(a) - M(b))``, M the Mills
ratio ``(1 - Φ)/φ``, and where M(a) and M(b) are close too, their difference is the integral of ``-M'``,
which is positive. No exponential of ε is ever formed, so ε may be 1e-6 or 1e4 and δ as small as 1e-300.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erfcx, erfinv, ndtr, ndtri

from .checks import check_delta, check_non_negative

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_RTOL = 4 * float(np.finfo(float).eps)  # the smallest that brentq accepts


def gdp_delta(mu: float, epsilon: float) -> float:
    """Smallest δ at which a μ-GDP mechanism is (ε, δ)-indistinguishable.

    Args:
        mu: GDP parameter, >= 0; ``inf`` means nothing is hidden.
        epsilon: ε >= 0.

    Returns:
        δ in [0, 1]; 0 where it is below the smallest float.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Dong, Roth and Su 2022, "Gaussian differential privacy", Corollary 1; theory §3.

    Example:
        >>> f"{gdp_delta(0.26805, epsilon=1.0):.2e}"
        '1.00e-05'
    """
    check_non_negative(epsilon=epsilon)
    _check_mu(mu)
    return math.exp(_log_delta(mu, epsilon))


def gdp_epsilon(mu: float, delta: float) -> float:
    """Smallest ε at which a μ-GDP mechanism is (ε, δ)-indistinguishable.

    Inverts ``gdp_delta`` in ε. The root is ill-conditioned where δ hardly depends on ε (``ε << min(1, μ)``):
    then the returned ε meets δ to rounding, but its own relative error grows as ``1e-15 μ/ε``.

    Args:
        mu: GDP parameter, >= 0.
        delta: δ in (0, 1).

    Returns:
        ε >= 0; 0 where δ alone covers the whole difference, ``inf`` for ``mu = inf``.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Dong, Roth and Su 2022, Corollary 1; theory §3.

    Example:
        >>> f"{gdp_epsilon(2**0.5, delta=1e-5):.2f}"
        '6.57'
    """
    check_delta(delta)
    _check_mu(mu)
    if math.isinf(mu):
        return math.inf
    target = math.log(delta)
    if _log_delta(mu, 0.0) <= target:
        return 0.0
    # δ < Φ(-a), so at the ε that makes Φ(-a) = δ the budget is already met.
    upper = mu * (mu / 2 - float(ndtri(delta)))
    return _root(lambda epsilon: _log_delta(mu, epsilon) - target, 0.0, upper)


def gdp_mu(epsilon: float, delta: float) -> float:
    """Largest μ for which every μ-GDP mechanism is (ε, δ)-indistinguishable.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).

    Returns:
        μ > 0. A Gaussian of standard deviation ``distance / μ`` hides ``distance``.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Dong, Roth and Su 2022, Corollary 1 (Balle and Wang 2018 for the Gaussian mechanism); theory §3.

    Example:
        >>> [round(gdp_mu(epsilon, 1e-5), 5) for epsilon in (0.1, 1, 8)]
        [0.03252, 0.26805, 1.66603]
    """
    check_non_negative(epsilon=epsilon)
    check_delta(delta)
    target = math.log(delta)
    # Two lower bounds: δ(ε; μ) is at most δ(0; μ), and less than Φ(-a).
    z = -float(ndtri(delta))
    root = math.hypot(z, math.sqrt(2 * epsilon))
    lower = max(2 * math.sqrt(2) * float(erfinv(delta)), 2 * epsilon / (z + root) if z > 0 else root - z)
    if _log_delta(lower, epsilon) >= target:
        return lower
    upper = 2 * lower
    while _log_delta(upper, epsilon) < target:
        upper *= 2
    return _root(lambda mu: _log_delta(mu, epsilon) - target, lower, upper)


def _check_mu(mu: float) -> None:
    if not mu >= 0:
        raise ValueError(f"mu must be a number >= 0, got {mu}")


def _root(function: Callable[[float], float], lower: float, upper: float) -> float:
    """Root to full relative precision, even of a root close to 0."""
    return float(brentq(function, lower, upper, xtol=1e-300, rtol=_RTOL, maxiter=5000))


def _log_delta(mu: float, epsilon: float) -> float:
    """``ln δ(ε; μ)``; -inf far below the smallest float."""
    if mu == 0 or math.isinf(mu):
        return -math.inf if mu == 0 else 0.0
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    if a > 1e3:  # δ < e^{-500000}
        return -math.inf
    log_density = -(a * a + math.log(2 * math.pi)) / 2
    if a < -1:  # δ is near 1: 1 - δ is a sum of two positive terms
        return math.log1p(-(float(ndtr(a)) + math.exp(log_density) * _mills(b)))
    difference = _mills(a) - _mills(b)
    if difference < _mills(a) / 2:
        x = a + mu * (_NODES + 1) / 2
        difference = mu / 2 * float(_WEIGHTS @ _minus_mills_slope(x))
    return log_density + math.log(difference)


def _mills(x: float) -> float:
    """Mills ratio ``(1 - Φ(x)) / φ(x)``."""
    return math.sqrt(math.pi / 2) * float(erfcx(x / math.sqrt(2)))


def _minus_mills_slope(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``-M'(x) = 1 - x M(x) > 0``, for x of shape [n], without cancellation at large x."""
    # M = 1/(x + 1/(x + 2/(x + 3/…))); with tail = x + 2/(x + 3/…) this gives 1 - x M = 1/(1 + x tail).
    y = np.maximum(x, 3.0)
    tail = y
    for n in range(60, 1, -1):
        tail = y + n / tail
    return np.where(x < 3, 1 - x * math.sqrt(math.pi / 2) * erfcx(x / math.sqrt(2)), 1 / (1 + y * tail))
