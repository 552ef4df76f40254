r"""Projected noisy SGD over fixed cyclic batches: learning and unlearning of a strongly convex head (theory §5).

``w ← Π_R(w - η ∇F_B(w) + s ξ)``, with ``F_B(w) = (1/|B|) Σ_{i∈B} ℓ_i(w) + λ/2 ‖w‖²``, at least b images in each of the
``n // b`` batches, always in the same order, and ``s = sqrt(2η) σ`` in the paper's parametrisation. A step with
``η ≤ 1/(smoothness + λ)`` contracts by ``c = 1 - ηλ``. Two runs over data sets that differ in the losses of m images
(replace-one: a refined mask), from one start and with one noise, are pushed apart by at most ``2ηLm/b`` per epoch.
"""

from __future__ import annotations

import math

from .checks import check_non_negative, check_positive, check_steps
from .gdp import gdp_mu

_MAX_EPOCHS = 1_000_000


def pnsgd_distance(
    *,
    learning_rate: float,
    ridge: float,
    lipschitz: float,
    samples: int,
    batch_size: int,
    changed: int = 1,
    epochs: int | None = None,
    start: float = 0.0,
) -> float:
    """W∞ distance Z of two runs of projected noisy SGD whose data differ in m losses.

    ``Z = c^T start + (2ηLm/b) (1 - c^T)/(1 - c^{n/b})``, ``T = epochs · n/b``. With one common start it holds after any
    number of epochs; ``epochs = None`` is the stationary limit ``2ηLm/(b (1 - c^{n/b}))``. A learning run that
    is not known to have been this process has ``epochs = 0`` and ``start = 2R``, the diameter of the ball.

    Args:
        learning_rate: η > 0, ηλ <= 1.
        ridge: λ > 0.
        lipschitz: L > 0 of one sample's loss, ridge left out.
        samples: n >= 1.
        batch_size: b, 1 <= b <= n.
        changed: m >= 0.
        epochs: of learning, and of all unlearning before this one; None = infinitely many.
        start: distance of the two starts.

    Returns:
        Z, in units of the weights.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Chien et al. 2024, "Certified machine unlearning via noisy stochastic gradient descent", Theorem 3.2 and
        Section 3.2 (batches of requests, sequential requests); theory §5.

    Example:
        >>> setting = {"learning_rate": 1.0, "ridge": 0.04, "lipschitz": 1.0, "samples": 1000, "batch_size": 100}
        >>> round(pnsgd_distance(**setting), 4), round(pnsgd_distance(**setting, epochs=1), 4)
        (0.0597, 0.02)
    """
    batches = _check(learning_rate, ridge, samples, batch_size)
    check_positive(lipschitz=lipschitz)
    check_non_negative(start=start)
    if changed != int(changed) or not 0 <= changed <= samples:
        raise ValueError(f"changed must be a whole number between 0 and samples, got {changed} of {samples}")
    if epochs is not None and (epochs != int(epochs) or epochs < 0):
        raise ValueError(f"epochs must be a whole number >= 0, or None for the stationary limit, got {epochs}")
    rate = _log_contraction(learning_rate * ridge)
    kept = math.exp(epochs * batches * rate) if epochs else float(epochs == 0)
    return kept * start + 2 * learning_rate * lipschitz * changed / batch_size * (1 - kept) / -math.expm1(
        batches * rate
    )


def pnsgd_sigma(
    epsilon: float, delta: float, *, distance: float, learning_rate: float, ridge: float, steps: int
) -> float:
    """Noise of each unlearning step, on the weights, that makes T steps on the new data (ε, δ)-certified.

    ``s = Z c^T sqrt((1 - c²)/(1 - c^{2T})) / μ``; the paper's σ is ``s / sqrt(2η)``.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        distance: Z >= 0, see :func:`pnsgd_distance`.
        learning_rate: η > 0, ηλ <= 1.
        ridge: λ > 0.
        steps: T >= 1, ``epochs · n/b``.

    Returns:
        s, standard deviation of the noise per coordinate; 0 where it is below the smallest float.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Chien et al. 2024 (mechanism); Bok, Su and Altschuler 2024 (account); theory §5.

    Example:
        >>> round(pnsgd_sigma(1.0, 1e-5, distance=0.06, learning_rate=1.0, ridge=0.04, steps=10), 4)
        0.0558
    """
    return pnsgd_hidden(distance=distance, learning_rate=learning_rate, ridge=ridge, steps=steps) / gdp_mu(
        epsilon, delta
    )


def pnsgd_hidden(*, distance: float, learning_rate: float, ridge: float, steps: int) -> float:
    """``s μ`` of T unlearning steps: the distance that one Gaussian would have to hide.

    Args:
        distance: Z >= 0.
        learning_rate: η > 0, ηλ <= 1.
        ridge: λ > 0.
        steps: T >= 1.

    Returns:
        ``Z c^T sqrt((1 - c²)/(1 - c^{2T}))``.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Theory §4, lemma, with s = 0.

    Example:
        >>> pnsgd_hidden(distance=1.0, learning_rate=1.0, ridge=0.5, steps=1)
        0.5
    """
    check_non_negative(distance=distance)
    _check_decay(learning_rate, ridge)
    check_steps(steps)
    decay = learning_rate * ridge
    rate = _log_contraction(decay)
    if decay == 1:
        return 0.0
    return distance * math.exp(steps * rate) * math.sqrt(decay * (2 - decay) / -math.expm1(2 * steps * rate))


def pnsgd_epochs(
    epsilon: float, delta: float, *, distance: float, learning_rate: float, ridge: float, batches: int, sigma: float
) -> int:
    """Fewest epochs of unlearning that are (ε, δ)-certified with a given noise.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        distance: Z >= 0.
        learning_rate: η > 0, ηλ <= 1.
        ridge: λ > 0.
        batches: n // b >= 1, steps of an epoch.
        sigma: s > 0, standard deviation of the noise of each step per coordinate, on the weights.

    Returns:
        K >= 1.

    Raises:
        ValueError: if an argument is out of range, or more than a million epochs are needed.

    Source:
        As :func:`pnsgd_sigma`; theory §5.

    Example:
        >>> pnsgd_epochs(1.0, 1e-5, distance=0.06, learning_rate=1.0, ridge=0.04, batches=10, sigma=0.01)
        5
    """
    check_positive(sigma=sigma)
    check_steps(batches)
    allowed = sigma * gdp_mu(epsilon, delta)

    def enough(epochs: int) -> bool:
        hidden = pnsgd_hidden(distance=distance, learning_rate=learning_rate, ridge=ridge, steps=epochs * batches)
        return hidden <= allowed

    high = 1
    while not enough(high):
        high *= 2
        if high > _MAX_EPOCHS:
            raise ValueError(
                f"more than {_MAX_EPOCHS} epochs are needed at sigma = {sigma:.3g} for a distance of {distance:.3g}; "
                "raise sigma, the learning rate or the ridge"
            )
    low = high // 2  # 0, or not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(learning_rate: float, ridge: float, samples: int, batch_size: int) -> int:
    """Batches of an epoch."""
    _check_decay(learning_rate, ridge)
    if samples != int(samples) or batch_size != int(batch_size) or not 1 <= batch_size <= samples:
        raise ValueError(
            f"batch_size must be a whole number between 1 and samples, got {batch_size} of {samples} samples"
        )
    return int(samples // batch_size)


def _check_decay(learning_rate: float, ridge: float) -> None:
    check_positive(learning_rate=learning_rate, ridge=ridge)
    if learning_rate * ridge > 1:
        raise ValueError(
            f"learning_rate * ridge must be <= 1, got {learning_rate * ridge}: a step would overshoot; lower one"
        )


def _log_contraction(decay: float) -> float:
    """``ln c``; -inf where a step forgets everything."""
    return math.log1p(-decay) if decay < 1 else -math.inf
