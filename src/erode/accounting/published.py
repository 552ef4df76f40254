"""Published noise rules, for comparison only: ours need less noise (theory §3, §4)."""

from __future__ import annotations

import math

from scipy.optimize import minimize_scalar

from .checks import check_delta, check_non_negative, check_positive, check_steps
from .pnsgd import pnsgd_distance


def koloskova_sigma(
    epsilon: float, delta: float, *, radius: float, clip_norm: float, learning_rate: float, steps: int
) -> float:
    """Gradient clipping without weight decay: ``σ² = 9 ln(1/δ) (C0 + C1 γ T)² / (ε² T)``.

    It amounts to ``μ = 2ε / (3 sqrt(ln 1/δ))`` for the ``retrained`` reference, which is (ε, δ) only for
    ``ε ≤ 11.0`` at δ = 1e-5 and ``ε ≤ 12.8`` at δ = 1e-7: beyond, a linear map breaks what the rule promises.

    Args:
        epsilon: ε > 0.
        delta: δ in (0, 1).
        radius: C0 >= 0.
        clip_norm: C1 >= 0.
        learning_rate: γ >= 0.
        steps: T >= 1.

    Returns:
        σ, standard deviation of the noise per coordinate and step.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Koloskova et al. 2025, "Certified unlearning for neural networks", theorem for λ = 0; theory §4.

    Example:
        >>> round(koloskova_sigma(1.0, 1e-5, radius=1.0, clip_norm=1.0, learning_rate=0.01, steps=100), 3)
        2.036
    """
    check_positive(epsilon=epsilon)
    check_delta(delta)
    check_non_negative(radius=radius, clip_norm=clip_norm, learning_rate=learning_rate)
    check_steps(steps)
    hidden = radius + clip_norm * learning_rate * steps
    return 3 * math.sqrt(-math.log(delta) / steps) * hidden / epsilon


def classical_mu(epsilon: float, delta: float) -> float:
    """Classical Gaussian mechanism: ``μ = ε / sqrt(2 ln(1.25/δ))``.

    Args:
        epsilon: ε in (0, 1]; the rule is not valid above.
        delta: δ in (0, 1).

    Returns:
        μ that the rule allows; the noise is ``distance / μ``.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Dwork and Roth 2014, "The algorithmic foundations of differential privacy", Theorem A.1; theory §3.

    Example:
        >>> round(1 / classical_mu(1.0, 1e-5), 3)
        4.845
    """
    check_delta(delta)
    if not 0 < epsilon <= 1:
        raise ValueError(f"the classical Gaussian rule is valid for 0 < epsilon <= 1, got {epsilon}; use gdp_mu")
    return epsilon / math.sqrt(2 * math.log(1.25 / delta))


def renyi_mu(epsilon: float, delta: float) -> float:
    """Rényi accounting of a μ-GDP mechanism, ``D_α ≤ α μ²/2``, best order α.

    The conversion ``ε = α μ²/2 - (ln δ + ln α)/(α - 1) + ln((α - 1)/α)``, solved for μ and maximised over α
    > 1.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).

    Returns:
        μ >= 0 that Rényi accounting allows; the noise is ``distance / μ``.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Mironov 2017 (Rényi differential privacy); Canonne, Kamath and Steinke 2020, Proposition 12
        (conversion); theory §3.

    Example:
        >>> round(renyi_mu(1.0, 1e-5), 4)
        0.2472
    """
    check_non_negative(epsilon=epsilon)
    check_delta(delta)

    def half_square(log_excess: float) -> float:
        excess = math.exp(log_excess)  # α - 1
        order = 1 + excess
        slack = (math.log(delta) + math.log1p(excess)) / excess - log_excess + math.log1p(excess)
        return (epsilon + slack) / order

    # The objective has one maximum, near α - 1 = sqrt(2 ln(1/δ))/μ.
    best = minimize_scalar(lambda t: -half_square(t), bounds=(-10.0, 40.0), method="bounded", options={"xatol": 1e-10})
    return math.sqrt(2 * max(0.0, -float(best.fun)))


def chien_sigma(
    epsilon: float,
    delta: float,
    *,
    learning_rate: float,
    ridge: float,
    lipschitz: float,
    samples: int,
    batch_size: int,
    epochs: int,
) -> float:
    """Projected noisy SGD, learnt to stationarity: ``ε_α = α Z² c^{2Kn/b} / (2ησ²)``, best order α.

    With ``ε = ε_α + ln(1/δ)/(α - 1)`` the best order is known, so ``Z c^{Kn/b} / sqrt(2η) / σ`` may be at most
    ``sqrt(ln(1/δ) + ε) - sqrt(ln(1/δ))``.

    Args:
        epsilon: ε > 0.
        delta: δ in (0, 1).
        learning_rate: η > 0, ηλ <= 1.
        ridge: λ > 0, strong convexity.
        lipschitz: L > 0 of one sample's loss.
        samples: n >= 1.
        batch_size: b, 1 <= b <= n.
        epochs: K >= 1 of unlearning.

    Returns:
        σ of the paper: the noise on the weights is ``sqrt(2η) σ`` per coordinate and step.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Chien et al. 2024, Theorem 3.2 with the loose Z (as the released code computes it); Mironov 2017 (conversion);
        theory §5.

    Example:
        >>> setting = {"learning_rate": 1.0, "ridge": 0.04, "lipschitz": 1.0, "samples": 1000, "batch_size": 100}
        >>> round(chien_sigma(1.0, 1e-5, **setting, epochs=1), 4)
        0.1944
    """
    check_positive(epsilon=epsilon)
    check_delta(delta)
    check_steps(epochs)
    distance = pnsgd_distance(
        learning_rate=learning_rate, ridge=ridge, lipschitz=lipschitz, samples=samples, batch_size=batch_size
    )
    decay = learning_rate * ridge
    kept = math.exp(epochs * (samples // batch_size) * math.log1p(-decay)) if decay < 1 else 0.0
    log = -math.log(delta)
    allowed = epsilon / (math.sqrt(log + epsilon) + math.sqrt(log))
    return distance * kept / math.sqrt(2 * learning_rate) / allowed
