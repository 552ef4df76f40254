r"""Sensitivity of strongly convex heads: softmax constants, residual certificate, Newton step (theory §5).

The objective is ``F(w) = (1/n) Σ_i ℓ_i(w) + λ/2 ‖w‖²``; ``ℓ_i`` is the mean, over the labelled pixels of image i, of
the cross-entropy ``-Σ_k q_k ln p_k``, ``p = softmax(W φ)``, ``‖φ‖ ≤ 1``, with targets q on the simplex. One sample is
one image; λ stands outside ``ℓ_i``. Means over pixels keep each of the following constants, which hold for any
number of classes and are attained (the second and third with two).

**Lipschitz constant** L = √2: the gradient of a pixel is ``(p - q) φᵀ``, of Frobenius norm ``‖p - q‖ ‖φ‖``, and no
two points of the simplex are further apart than √2.

**Smoothness** 1/2: ``∇² = (diag p - p pᵀ) ⊗ φ φᵀ``, and ``uᵀ(diag p - p pᵀ)u`` is the variance of a variable that
takes the value ``u_k`` with probability ``p_k``. For ‖u‖ = 1 its range is at most √2, so its variance at most 1/2.

**Hessian-Lipschitz constant** M = √2/(3√3) ≈ 0.272: the derivative of the Hessian is a symmetric tensor, whose norm
is attained on the diagonal, where it is the third central moment of that variable. A variable of range r has
``|E(u - Eu)³| ≤ r³/(6√3)`` (for a given mean a two-point law is the largest, and then ``r³ p(1-p)(1-2p)``), and
``(√2)³/(6√3) = √2/(3√3)``. From logits to W it shrinks by ``‖φ‖³ ≤ 1``.
"""

from __future__ import annotations

import math
import sys
from typing import Literal, get_args

from .checks import check_non_negative, check_positive
from .gdp import gdp_mu

SOFTMAX_LIPSCHITZ = math.sqrt(2)
"""L of a pixel's, and so an image's, cross-entropy."""

SOFTMAX_SMOOTHNESS = 0.5
"""Largest curvature of the same, without the ridge."""

SOFTMAX_HESSIAN_LIPSCHITZ = math.sqrt(2 / 27)
"""M: how fast the Hessian of the same may change."""

_UNITS = 1024
"""Rounding units in the smallest tolerance: sums over millions of pixels lose some, and it shall be 1 % at most."""

ConvexReference = Literal["minimiser", "retrained"]
"""The run that never saw the forget set (theory §3, §5):

``minimiser``: the exact minimiser of the objective on retained data, plus the same noise;
``retrained``: the same unlearning, applied to a model trained without the forget set.
"""


def residual_distance(*, tolerance: float, ridge: float, reference: ConvexReference = "minimiser") -> float:
    """Largest distance Δ of two points at which the gradient of a λ-strongly convex objective is at most τ.

    ``‖w - w*‖ ≤ ‖∇F(w)‖/λ``. Against the minimiser Δ = τ/λ; against another point of the same kind 2τ/λ.

    Args:
        tolerance: τ >= 0, norm of the gradient over all retained data.
        ridge: λ > 0.
        reference: see ``ConvexReference``.

    Returns:
        Δ, in units of the weights.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Guo et al. 2020, Neel et al. 2021 (idea); theory §5, residual certificate.

    Example:
        >>> residual_distance(tolerance=1e-6, ridge=0.5), residual_distance(
        ...     tolerance=1e-6, ridge=0.5, reference="retrained")
        (2e-06, 4e-06)
    """
    check_non_negative(tolerance=tolerance)
    check_positive(ridge=ridge)
    return _sides(reference) * tolerance / ridge


def residual_floor(*, ridge: float) -> float:
    """Smallest tolerance τ at which the norm of a gradient in double precision says something of the true one.

    ``∇F = (1/n) Σ_i w_i (p_i - q_i) φ_iᵀ + λW``, with unit ε = 2⁻⁵². A term has norm at most L = √2, and so has λW at
    the minimiser: adding them up rounds by units of ``ε L``. Logits ``W φ`` round by units of ``ε ‖W‖``, with
    ``‖W‖ ≤ sqrt(2 ln K/λ)`` as F(W) ≤ F(0) = ln K, and softmax halves that: units of about ``ε/√λ``. Rounding may be
    all of a norm below that, and some of it below ``1024 ε (L + 1/√λ)``; noise ``(τ/λ)/μ`` would be too small for the
    true distance.

    Args:
        ridge: λ > 0.

    Returns:
        The floor of τ.

    Raises:
        ValueError: if λ is out of range.

    Source:
        Higham 2002, "Accuracy and stability of numerical algorithms", section 3.1 (inner products).

    Example:
        >>> f"{residual_floor(ridge=1e-3):.1e}", f"{residual_floor(ridge=1e-7):.1e}"
        ('7.5e-12', '7.2e-10')
    """
    check_positive(ridge=ridge)
    return _UNITS * sys.float_info.epsilon * (SOFTMAX_LIPSCHITZ + 1 / math.sqrt(ridge))


def residual_sigma(
    epsilon: float, delta: float, *, tolerance: float, ridge: float, reference: ConvexReference = "minimiser"
) -> float:
    """Noise that makes a minimisation to a gradient of τ (ε, δ)-certified: ``σ = (τ/λ)/μ``.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        tolerance: τ >= 0, fixed before the data are seen.
        ridge: λ > 0.
        reference: see ``ConvexReference``; ``retrained`` needs twice the noise.

    Returns:
        σ, standard deviation of the noise per coordinate.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Theory §5, residual certificate.

    Example:
        >>> f"{residual_sigma(1.0, 1e-5, tolerance=1e-6, ridge=1e-3):.3e}"
        '3.731e-03'
    """
    return residual_distance(tolerance=tolerance, ridge=ridge, reference=reference) / gdp_mu(epsilon, delta)


def newton_gradient(*, samples: int, changed: int, residual: float = 0.0) -> float:
    """Largest gradient of the retained objective at the minimiser of the original one: ``2 m L/n + τ₀``.

    It holds for replaced losses (n stays: refining a mask deletes atoms and inserts others in the same image) and
    for deleted ones alike. Replaced: ``∇F_r(ŵ) - ∇F(ŵ) = (1/n) Σ_U (∇ℓ' - ∇ℓ)``. Deleted, by distances:
    ``∇F(w_r*) = (1/n) Σ_U (∇ℓ(w_r*) + λ w_r*)`` with ``‖λ w_r*‖ ≤ L``, so ``‖ŵ - w_r*‖ ≤ (2 m L/n + τ₀)/λ``.

    Args:
        samples: n >= 1 images of the original training.
        changed: m, of which the loss changes, 1 <= m <= n.
        residual: τ₀ >= 0, norm of the gradient at which the original training stopped.

    Returns:
        Bound on λ times the distance of the two minimisers.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Sekhari et al. 2021, proof of Theorem 3, for a ridge outside the losses; theory §1 (both atoms), §5.

    Example:
        >>> round(newton_gradient(samples=1000, changed=10), 4)
        0.0283
    """
    _check_changed(samples, changed)
    check_non_negative(residual=residual)
    return 2 * changed * SOFTMAX_LIPSCHITZ / samples + residual


def newton_distance(
    *, samples: int, changed: int, ridge: float, residual: float = 0.0, reference: ConvexReference = "minimiser"
) -> float:
    """Largest distance Δ of a Newton step on retained data from its reference.

    From a point at distance r of the minimiser a Newton step ends within ``M r²/(2λ)``, and ``r ≤ (2mL/n + τ₀)/λ``,
    so ``Δ = M (2mL/n + τ₀)²/(2λ³)``: for τ₀ = 0 the published ``2 M m² L²/(λ³ n²)``. The reference ``retrained``
    takes its step from a model trained to the same τ₀, which adds ``M τ₀²/(2λ³)``.

    Args:
        samples: n >= 1.
        changed: m, 1 <= m <= n.
        ridge: λ > 0.
        residual: τ₀ >= 0.
        reference: see ``ConvexReference``.

    Returns:
        Δ, in units of the weights.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Sekhari et al. 2021, "Remember what you want to forget", Theorem 3; theory §5, Newton step.

    Example:
        >>> round(newton_distance(samples=1000, changed=1, ridge=0.1), 6)
        0.001089
    """
    check_positive(ridge=ridge)
    gradients = [newton_gradient(samples=samples, changed=changed, residual=residual)]
    gradients += [residual] * (_sides(reference) - 1)
    return sum(_newton_error(gradient, ridge) for gradient in gradients)


def newton_sigma(
    epsilon: float,
    delta: float,
    *,
    samples: int,
    changed: int,
    ridge: float,
    residual: float = 0.0,
    reference: ConvexReference = "minimiser",
) -> float:
    """Noise that makes a Newton step on retained data (ε, δ)-certified: ``σ = Δ/μ``.

    Args:
        epsilon: ε >= 0.
        delta: δ in (0, 1).
        samples: n >= 1.
        changed: m, 1 <= m <= n.
        ridge: λ > 0.
        residual: τ₀ >= 0, norm of the gradient at which the original training stopped.
        reference: see ``ConvexReference``.

    Returns:
        σ, standard deviation of the noise per coordinate.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Sekhari et al. 2021, Theorem 3, calibrated exactly (Balle and Wang 2018); theory §5.

    Example:
        >>> f"{newton_sigma(1.0, 1e-5, samples=1000, changed=1, ridge=0.1):.3e}"
        '4.061e-03'
    """
    distance = newton_distance(samples=samples, changed=changed, ridge=ridge, residual=residual, reference=reference)
    return distance / gdp_mu(epsilon, delta)


def _newton_error(gradient: float, ridge: float) -> float:
    """``M (gradient/λ)²/(2λ)``, without the overflow of λ³."""
    return SOFTMAX_HESSIAN_LIPSCHITZ / 2 * (gradient / ridge) * (gradient / ridge) / ridge


def _sides(reference: str) -> int:
    """How many of the two compared points may be off the minimiser."""
    if reference not in get_args(ConvexReference):
        raise ValueError(f"reference must be one of {', '.join(get_args(ConvexReference))}, got {reference!r}")
    return 2 if reference == "retrained" else 1


def _check_changed(samples: int, changed: int) -> None:
    if samples != int(samples) or changed != int(changed) or not 1 <= changed <= samples:
        raise ValueError(
            f"changed must be a whole number between 1 and samples, got changed = {changed} of samples = {samples}"
        )
