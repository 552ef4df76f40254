"""Noise for gradient clipping and for output perturbation (theory §4)."""

from __future__ import annotations

import math
from typing import Literal, get_args

from .checks import check_non_negative, check_steps
from .gdp import gdp_mu

Reference = Literal["retrained", "anchor", "noise"]
"""The run that never saw the forget set, and that the unlearned model is compared with (theory §3, §4):

``retrained``: the same unlearning, applied to a model trained without the forget set;
``anchor``: the same unlearning, started at the anchor;
``noise``: started at the anchor, decay and noise but no gradient, then the same free phase; of mechanisms that project
at each step, one draw of the last step's noise around the anchor, then the same free phase.
"""


def initial_distance(reference: Reference, radius: float) -> float:
    """Largest distance Δ between the start of the unlearning and that of the reference.

    Args:
        reference: see ``Reference``.
        radius: C0 >= 0, norm to which the weights are clipped around the anchor.

    Returns:
        ``2 C0`` for ``retrained``, whose two starts lie anywhere in the ball; ``C0`` where one is the centre.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Theory §4, table of gradient clipping.

    Example:
        >>> initial_distance("retrained", 0.5), initial_distance("anchor", 0.5)
        (1.0, 0.5)
    """
    check_reference(reference)
    check_non_negative(radius=radius)
    return 2 * radius if reference == "retrained" else radius


def gradient_shift(reference: Reference, clip_norm: float, learning_rate: float) -> float:
    """Largest difference s of two clipped gradient steps.

    Args:
        reference: see ``Reference``.
        clip_norm: C1 >= 0, norm to which the gradient is clipped.
        learning_rate: γ >= 0.

    Returns:
        ``2 γ C1``, or ``γ C1`` for ``noise``, which takes no gradient.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Theory §4, table of gradient clipping.

    Example:
        >>> gradient_shift("anchor", clip_norm=1.0, learning_rate=0.25)
        0.5
    """
    check_reference(reference)
    check_non_negative(clip_norm=clip_norm, learning_rate=learning_rate)
    return learning_rate * clip_norm if reference == "noise" else 2 * learning_rate * clip_norm


def gradient_clipping_sigma(
    epsilon: float,
    delta: float,
    *,
    radius: float,
    clip_norm: float,
    learning_rate: float,
    weight_decay: float,
    steps: int,
    reference: Reference = "retrained",
) -> float:
    """Noise of each step that makes T constant gradient-clipping steps (ε, δ)-certified.

    ``σ μ = (Δ c^T + s Σ c^k) / sqrt(Σ c^{2k})``, k = 0..T-1, ``c = 1 - γλ``; for schedules use
    ``NoisyIteration``.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        radius: C0 >= 0, norm to which the weights are clipped around the anchor.
        clip_norm: C1 >= 0, norm to which the mean gradient is clipped.
        learning_rate: γ >= 0.
        weight_decay: λ >= 0, pull to the anchor, outside the clip; γλ <= 1.
        steps: T >= 1 noisy steps.
        reference: see ``Reference``.

    Returns:
        σ, standard deviation of the noise per coordinate, added to the weights after the step.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Koloskova et al. 2025, "Certified unlearning for neural networks" (mechanism); Bok, Su and Altschuler
        2024 (account); theory §4.

    Example:
        >>> sigma = gradient_clipping_sigma(1.0, 1e-5, radius=1.0, clip_norm=1.0, learning_rate=0.01,
        ...                                 weight_decay=0.0, steps=100)
        >>> round(sigma, 3)
        1.492
    """
    check_non_negative(weight_decay=weight_decay)
    check_steps(steps)
    distance = initial_distance(reference, radius)
    shift = gradient_shift(reference, clip_norm, learning_rate)
    decay = learning_rate * weight_decay
    if decay > 1:
        raise ValueError(
            f"learning_rate * weight_decay must be <= 1, got {decay}: a step would overshoot the anchor; "
            "lower one of them"
        )
    kept = math.exp(steps * math.log1p(-decay)) if decay < 1 else 0.0
    hidden = distance * kept + shift * geometric_sum(decay, steps)
    return hidden / math.sqrt(geometric_sum(decay * (2 - decay), steps)) / gdp_mu(epsilon, delta)


def output_perturbation_sigma(
    epsilon: float, delta: float, *, radius: float, reference: Reference = "retrained"
) -> float:
    """Noise that makes one Gaussian, added to the clipped weights, (ε, δ)-certified: ``σ = Δ/μ``.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        radius: C0 >= 0, norm to which the weights are clipped around the anchor.
        reference: see ``Reference``; without gradient steps ``anchor`` and ``noise`` are the same.

    Returns:
        σ, standard deviation of the noise per coordinate.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Balle and Wang 2018, "Improving the Gaussian mechanism"; theory §4.

    Example:
        >>> round(output_perturbation_sigma(1.0, 1e-5, radius=1.0, reference="anchor"), 3)
        3.731
    """
    return initial_distance(reference, radius) / gdp_mu(epsilon, delta)


def check_reference(reference: str) -> None:
    """Raise ValueError unless ``reference`` is one of ``Reference``."""
    if reference not in get_args(Reference):
        raise ValueError(f"reference must be one of {', '.join(get_args(Reference))}, got {reference!r}")


def geometric_sum(decay: float, steps: int) -> float:
    """``Σ_{k<steps} (1 - decay)^k``, exact to rounding for the smallest decay."""
    if decay in (0, 1):
        return steps if decay == 0 else 1.0
    return -math.expm1(steps * math.log1p(-decay)) / decay


def gradient_clipping_steps(
    *, reference: Reference, radius: float, clip_norm: float, learning_rate: float, weight_decay: float
) -> int:
    """Steps at which the noise of each step is least: ``c^T = 1 - γλ Δ/s``, ``T = Δ/s`` without decay.

    Returns:
        T >= 1.

    Raises:
        ValueError: if there is no such number: the noise falls for ever (``γλΔ >= s``), or nothing moves.

    Source:
        Stationary point of ``σμ`` in theory §4.

    Example:
        >>> gradient_clipping_steps(reference="anchor", radius=1.0, clip_norm=1.0, learning_rate=0.1, weight_decay=0.0)
        5
    """
    if not (radius > 0 and clip_norm > 0 and learning_rate > 0):
        raise ValueError(
            "steps='auto' needs radius, clip_norm and learning_rate above 0, got "
            f"{radius}, {clip_norm} and {learning_rate}: else there is nothing to balance; give a number of steps"
        )
    distance, shift = initial_distance(reference, radius), gradient_shift(reference, clip_norm, learning_rate)
    decay = learning_rate * weight_decay
    if decay * distance >= shift:
        raise ValueError(
            f"steps='auto' needs learning_rate * weight_decay < {shift / distance:.3g}: above, the noise of a step "
            "falls with every further step; give a number of steps, or lower weight_decay"
        )
    best = math.log1p(-decay * distance / shift) / math.log1p(-decay) if decay else distance / shift

    def sigma(steps: int) -> float:
        return gradient_clipping_sigma(
            1.0, 1e-5, radius=radius, clip_norm=clip_norm, learning_rate=learning_rate, weight_decay=weight_decay,
            steps=steps, reference=reference,
        )  # fmt: skip

    return min((max(1, math.floor(best)), math.ceil(best)), key=sigma)
