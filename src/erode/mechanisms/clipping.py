"""Noisy training around an anchor: gradient clipping, model clipping, output perturbation (theory §4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from ..accounting import (
    Reference,
    gradient_clipping_sigma,
    gradient_shift,
    initial_distance,
    model_clipping_delta,
    model_clipping_sigma,
    output_perturbation_sigma,
)
from ..accounting.checks import check_non_negative, check_positive
from ..accounting.clipping import geometric_sum
from .base import SLACK, Mechanism


@dataclass(frozen=True, kw_only=True)
class BallMechanism(Mechanism):
    """A mechanism that starts in a ball around the anchor.

    Args:
        reference: see :data:`~erode.accounting.Reference`.
        radius: C0 (C2 for model clipping) > 0, norm to which the weights are clipped around the anchor.
    """

    reference: Reference
    radius: float

    def __post_init__(self) -> None:
        check_positive(radius=self.radius)
        super().__post_init__()

    def initial_distance(self) -> float:
        """By reference: the diameter of the ball or its radius."""
        return initial_distance(self.reference, self.radius)

    def kept_radius(self) -> float:
        """``C0 ∏c``."""
        return self.radius * self.bounds()[0] ** self.steps

    def displacement(self) -> float:
        """R: largest distance from the anchor that the last step leads to, noise apart."""
        return self.kept_radius()

    def shrinkage(self, parameters: int) -> float:
        """Best factor on the distance from the anchor, ``a = R² / (R² + d σ_f²)``.

        The weights are ``θ₀ + v + σ_f ξ`` with ‖v‖ ≤ R. Among linear estimates ``θ₀ + a (v + σ_f ξ)`` of ``θ₀ + v`` the
        largest expected square error over the ball, ``(1 - a)² R² + a² d σ_f²``, is least at this a. It is a function
        of public constants alone. (Where v answers earlier noise, as clipped gradients do, the bound leaves out their
        correlation: the factor is then a choice, not the optimum.)

        Args:
            parameters: d, number of exposed parameters.

        Source:
            Minimax linear estimation over a ball, e.g. Donoho, Liu and MacGibbon 1990; theory §4.

        Example:
            >>> made = OutputPerturbationMechanism(reference="anchor", radius=1.0, sigma=1.0)
            >>> made.shrinkage(parameters=3)
            0.25
        """
        largest = self.displacement() ** 2
        return largest / (largest + parameters * self.final_noise() ** 2)

    def signal_and_noise(self, d: int, start: float | None = None) -> tuple[float, float]:
        """Norms of what is left of the trained start, and of all that is noise, after the last step.

        A prediction for many coordinates, not part of the guarantee; what gradients of retained data add is neither.

        Args:
            d: exposed parameters, >= 1.
            start: distance of the trained weights from the anchor, >= 0, before they are clipped to the ball; None =
                as far as the ball allows.
        """
        share = 1.0 if start is None else min(1.0, start / self.radius)
        return self.kept_radius() * share, self.final_noise() * math.sqrt(d)


@dataclass(frozen=True, kw_only=True)
class GradientClippingMechanism(BallMechanism):
    """``x ← x - γ(Π_C1(g) + λ(x - θ₀)) + σξ``.

    Args:
        clip_norm: C1 >= 0, norm to which the mean gradient is clipped.
        learning_rate: γ >= 0.
        weight_decay: λ >= 0, pull to the anchor, γλ <= 1.

    Source:
        Koloskova et al. 2025; theory §4.

    Example:
        >>> mechanism = GradientClippingMechanism.calibrated(
        ...     1.0, 1e-5, reference="retrained", radius=1.0, clip_norm=1.0, learning_rate=0.01, weight_decay=0.0,
        ...     steps=100)
        >>> round(mechanism.sigma, 3), round(mechanism.epsilon(1e-5), 6)
        (1.492, 1.0)
    """

    name = "gradient_clipping"

    clip_norm: float
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_non_negative(weight_decay=self.weight_decay)
        super().__post_init__()

    def bounds(self) -> tuple[float, float]:
        """``c = 1 - γλ``; s by reference."""
        contraction = 1 - self.learning_rate * self.weight_decay
        return contraction, gradient_shift(self.reference, self.clip_norm, self.learning_rate)

    def displacement(self) -> float:
        """``c^T C0 + γ C1 Σ c^k``."""
        return self.kept_radius() + self.learning_rate * self.clip_norm * geometric_sum(
            self.learning_rate * self.weight_decay, self.steps
        )

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        return cls(sigma=gradient_clipping_sigma(epsilon, delta, **constants) * SLACK, **constants)


@dataclass(frozen=True, kw_only=True)
class ModelClippingMechanism(BallMechanism):
    """``x ← θ₀ + Π_C2(x - γ(g + λ(x - θ₀)) - θ₀) + σξ``; γ and λ do not enter the guarantee.

    Source:
        Koloskova et al. 2025; theory §4.

    Example:
        >>> mechanism = ModelClippingMechanism.calibrated(1.0, 1e-5, reference="retrained", radius=1.0, steps=6)
        >>> round(mechanism.sigma, 3), round(mechanism.epsilon(1e-5), 6), round(mechanism.mu(), 3)
        (0.951, 1.0, 2.104)
    """

    name = "model_clipping"

    def compared_with(self) -> str:
        """See the base class. Noise steps without gradients are no reference: their own noise is projected, too.

        So their last projection ends up to C2 from the anchor, and up to 2 C2 from that of the run.
        """
        if self.reference == "noise":
            return "the anchor plus one draw of the last step's noise, then the same training on retained data"
        return super().compared_with()

    def bounds(self) -> tuple[float, float]:
        """Two points of a ball, however far apart they were: nothing of the distance before is left."""
        return 0.0, self.radius if self.reference == "noise" else 2 * self.radius

    def kept_radius(self) -> float:
        """C2: the last projection allows no more; most of it is noise of the steps before where these were many."""
        return self.radius

    def signal_and_noise(self, d: int, start: float | None = None) -> tuple[float, float]:
        """See the base class. Each projection shrinks the start and the noise of earlier steps alike.

        For ``start = C2`` their ratio r is ``ρ^T / sqrt(1 - ρ^{2T})``, ``ρ² = C2² / (C2² + σ²d)``.
        """
        fresh = self.sigma**2 * d
        signal, noise = self.radius if start is None else min(start, self.radius), fresh
        for _ in range(self.steps - 1):
            shrink = min(1.0, self.radius / math.sqrt(signal**2 + noise))
            signal, noise = signal * shrink, noise * shrink**2 + fresh
        return signal, math.sqrt(noise)

    def delta(self, epsilon: float) -> float:
        """The contraction of all steps; for the pure-noise reference, which does not contract, the last one."""
        if self.reference == "noise":
            return super().delta(epsilon)
        return model_clipping_delta(epsilon, radius=self.radius, sigma=self.sigma, steps=self.steps)

    def epsilon(self, delta: float) -> float:
        """Bisection, from above."""
        low, high = 0.0, super().epsilon(delta)
        if self.reference == "noise" or self.delta(low) <= delta:
            return high if self.reference == "noise" else low
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self.delta(middle) <= delta else (middle, high)
        return high

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        return cls(sigma=model_clipping_sigma(epsilon, delta, **constants) * SLACK, **constants)


@dataclass(frozen=True, kw_only=True)
class OutputPerturbationMechanism(BallMechanism):
    """``x ← θ₀ + Π_C0(x - θ₀) + σξ``, once.

    Source:
        Balle and Wang 2018 (exact calibration); theory §4.

    Example:
        >>> mechanism = OutputPerturbationMechanism.calibrated(1.0, 1e-5, reference="anchor", radius=1.0)
        >>> round(mechanism.sigma, 3)
        3.731
    """

    name = "output_perturbation"

    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps != 1:
            raise ValueError(f"output perturbation draws noise once, got steps = {self.steps}")
        super().__post_init__()

    def bounds(self) -> tuple[float, float]:
        """The identity."""
        return 1.0, 0.0

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        ball = {name: value for name, value in constants.items() if name != "steps"}
        return cls(sigma=output_perturbation_sigma(epsilon, delta, **ball) * SLACK, **constants)
