"""The certified mechanisms as constants and the guarantee that follows from them; no weights, no torch (theory §4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from .accounting import (
    NoisyIteration,
    Reference,
    gdp_delta,
    gdp_epsilon,
    gradient_clipping_sigma,
    gradient_shift,
    initial_distance,
    model_clipping_delta,
    model_clipping_sigma,
    output_perturbation_sigma,
)
from .accounting._checks import check_delta

_SLACK = 1 + 1e-9
"""Factor on a calibrated σ: rounding of the root must not cost the certificate."""


@dataclass(frozen=True, kw_only=True)
class Mechanism(ABC):
    """All constants of one noisy phase.

    Args:
        reference: the run that never saw the forget set.
        radius: C0 (C2 for model clipping) > 0, norm to which the weights are clipped around the anchor.
        steps: T >= 1 draws of noise.
        sigma: σ > 0, standard deviation of each draw per coordinate.

    Raises:
        ValueError: if a constant is out of range.
    """

    name: ClassVar[str]
    """What certificates call it."""

    reference: Reference
    radius: float
    steps: int
    sigma: float

    def __post_init__(self) -> None:
        for name in ("radius", "sigma"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)}")
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps must be a whole number >= 1, got {self.steps!r}")
        self.mu()  # whatever else is out of range, the account refuses

    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """``(c, s)`` of a step: ``‖φ(x) - φ'(y)‖ ≤ c ‖x - y‖ + s``."""

    def initial_distance(self) -> float:
        """Δ, largest distance of the two starts."""
        return initial_distance(self.reference, self.radius)

    def account_step(self, account: NoisyIteration) -> None:
        """Add one step to an account."""
        contraction, shift = self.bounds()
        account.step(contraction=contraction, shift=shift, sigma=self.sigma)

    def account(self) -> NoisyIteration:
        """The account of all steps."""
        account = NoisyIteration()
        for _ in range(self.steps):
            self.account_step(account)
        return account

    def mu(self) -> float:
        """μ of all steps together."""
        return self.account().mu(self.initial_distance())

    def delta(self, epsilon: float) -> float:
        """Smallest δ at ``epsilon``."""
        return gdp_delta(self.mu(), epsilon)

    def epsilon(self, delta: float) -> float:
        """Smallest ε at ``delta``."""
        return gdp_epsilon(self.mu(), delta)

    @classmethod
    def from_target(cls, epsilon: float | None, delta: float, sigma: float | None, **constants: Any) -> Self:
        """Make it from what was asked for: ε, from which σ follows, or σ, from which ε does.

        Raises:
            ValueError: if both or neither are given, or a constant is out of range.
        """
        check_delta(delta)
        if epsilon is not None and sigma is None:
            return cls.calibrated(epsilon, delta, **constants)
        if epsilon is None and sigma is not None:
            return cls(sigma=sigma, **constants)
        raise ValueError(
            f"give either epsilon or sigma, got epsilon = {epsilon} and sigma = {sigma}; "
            "with epsilon the noise follows, with sigma (and epsilon=None) epsilon does"
        )

    @classmethod
    @abstractmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """The least noise that is (ε, δ)-certified, given all other constants."""

    def constants(self) -> dict[str, Any]:
        """Plain data from which ``mechanism`` makes an equal object."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class GradientClippingMechanism(Mechanism):
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

    def bounds(self) -> tuple[float, float]:
        """``c = 1 - γλ``; s by reference."""
        contraction = 1 - self.learning_rate * self.weight_decay
        return contraction, gradient_shift(self.reference, self.clip_norm, self.learning_rate)

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        return cls(sigma=gradient_clipping_sigma(epsilon, delta, **constants) * _SLACK, **constants)


@dataclass(frozen=True, kw_only=True)
class ModelClippingMechanism(Mechanism):
    """``x ← θ₀ + Π_C2(x - γ(g + λ(x - θ₀)) - θ₀) + σξ``; γ and λ do not enter the guarantee.

    Source:
        Koloskova et al. 2025; theory §4.

    Example:
        >>> mechanism = ModelClippingMechanism.calibrated(1.0, 1e-5, reference="retrained", radius=1.0, steps=6)
        >>> round(mechanism.sigma, 3), round(mechanism.epsilon(1e-5), 6), round(mechanism.mu(), 3)
        (0.951, 1.0, 2.104)
    """

    name = "model_clipping"

    def bounds(self) -> tuple[float, float]:
        """Two points of a ball, however far apart they were: nothing of the distance before is left."""
        return 0.0, self.radius if self.reference == "noise" else 2 * self.radius

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
        return cls(sigma=model_clipping_sigma(epsilon, delta, **constants) * _SLACK, **constants)


@dataclass(frozen=True, kw_only=True)
class OutputPerturbationMechanism(Mechanism):
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
        return cls(sigma=output_perturbation_sigma(epsilon, delta, **constants) * _SLACK, **constants)


_BY_NAME: dict[str, type[Mechanism]] = {
    kind.name: kind for kind in (GradientClippingMechanism, ModelClippingMechanism, OutputPerturbationMechanism)
}


def mechanism(constants: dict[str, Any]) -> Mechanism:
    """Make a mechanism from what ``Mechanism.constants`` gave.

    Raises:
        ValueError: for an unknown mechanism, a missing or unknown constant, or one out of range.

    Example:
        >>> made = OutputPerturbationMechanism(reference="anchor", radius=1.0, sigma=2.0)
        >>> mechanism(made.constants()) == made
        True
    """
    rest = dict(constants)
    name = rest.pop("name", None)
    if name not in _BY_NAME:
        raise ValueError(f"unknown mechanism {name!r}; this version knows {', '.join(_BY_NAME)}")
    try:
        return _BY_NAME[name](**rest)
    except TypeError as error:
        raise ValueError(f"{name} has other constants: {error}") from error
