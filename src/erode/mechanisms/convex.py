"""Strongly convex heads: residual certificate, Newton step, projected noisy SGD (theory §5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from ..accounting import (
    SOFTMAX_LIPSCHITZ,
    SOFTMAX_SMOOTHNESS,
    ConvexReference,
    newton_distance,
    newton_sigma,
    pnsgd_distance,
    pnsgd_sigma,
    residual_distance,
    residual_floor,
    residual_sigma,
)
from ..accounting.checks import check_non_negative
from .base import SLACK, Mechanism


@dataclass(frozen=True, kw_only=True)
class OneGaussian(Mechanism):
    """A mechanism that adds noise once, to a point that is close to a minimiser.

    Args:
        reference: see :data:`~erode.accounting.ConvexReference`.
        ridge: λ > 0, strong convexity.
    """

    reference: ConvexReference
    ridge: float
    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps != 1:
            raise ValueError(f"{self.name} draws noise once, got steps = {self.steps}")
        super().__post_init__()

    def bounds(self) -> tuple[float, float]:
        """The identity."""
        return 1.0, 0.0


@dataclass(frozen=True, kw_only=True)
class ResidualMechanism(OneGaussian):
    """Minimise on retained data until ``‖∇‖ ≤ τ``, then add one Gaussian.

    Args:
        tolerance: τ, at least :func:`~erode.accounting.residual_floor`.

    Raises:
        ValueError: for a tolerance that double precision cannot measure.

    Source:
        Guo et al. 2020, Neel et al. 2021; theory §5.

    Example:
        >>> mechanism = ResidualMechanism.calibrated(1.0, 1e-5, reference="minimiser", tolerance=1e-6, ridge=1e-3)
        >>> round(mechanism.sigma, 6), round(mechanism.epsilon(1e-5), 6)
        (0.003731, 1.0)
    """

    name = "residual_certificate"

    tolerance: float

    def __post_init__(self) -> None:
        super().__post_init__()
        floor = residual_floor(ridge=self.ridge)
        if self.tolerance < floor:
            raise ValueError(
                f"tolerance = {self.tolerance:.3g} is below {floor:.3g}, where at ridge = {self.ridge:.3g} rounding in "
                "double precision may hide part of the gradient, and the noise rests on its true norm; raise tolerance "
                "(the noise grows with it)"
            )

    def initial_distance(self) -> float:
        """By reference: τ/λ or twice that."""
        return residual_distance(tolerance=self.tolerance, ridge=self.ridge, reference=self.reference)

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        rest = {name: value for name, value in constants.items() if name != "steps"}
        return cls(sigma=residual_sigma(epsilon, delta, **rest) * SLACK, **constants)


@dataclass(frozen=True, kw_only=True)
class NewtonMechanism(OneGaussian):
    """One Newton step of the retained objective from the original weights, then one Gaussian.

    Args:
        samples: n >= 1 images.
        changed: m, whose loss changes.
        residual: τ₀ >= 0, norm of the gradient at which the original training stopped.

    Source:
        Sekhari et al. 2021; theory §5.

    Example:
        >>> mechanism = NewtonMechanism.calibrated(
        ...     1.0, 1e-5, reference="minimiser", ridge=0.1, samples=1000, changed=1, residual=0.0)
        >>> round(mechanism.sigma, 6), round(mechanism.epsilon(1e-5), 6)
        (0.004061, 1.0)
    """

    name = "newton_step"

    samples: int
    changed: int
    residual: float

    def initial_distance(self) -> float:
        """``M (2mL/n + τ₀)²/(2λ³)``, by reference."""
        return newton_distance(
            samples=self.samples,
            changed=self.changed,
            ridge=self.ridge,
            residual=self.residual,
            reference=self.reference,
        )

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        rest = {name: value for name, value in constants.items() if name != "steps"}
        return cls(sigma=newton_sigma(epsilon, delta, **rest) * SLACK, **constants)


@dataclass(frozen=True, kw_only=True)
class NoisySGDMechanism(Mechanism):
    """``w ← Π_R(w - η ∇F_B(w) + s ξ)`` on the retained data, from weights that the same process learnt, or from any.

    Noise of the learning is not counted, so the guarantee holds whatever was seen of it before the last request.

    Args:
        learning_rate: η > 0, at most ``1/(1/2 + λ)``.
        ridge: λ > 0.
        batches: steps of an epoch, always over the same batches in the same order.
        batch_size: b, images of the smallest batch.
        changed: m >= 0, images of which the loss changes.
        trained_epochs: epochs of the same process before, over all requests; 0 = none is known of.
        start: largest distance of the starts of that process: 0 for one start, 2R for any two points of the ball.
        carried: distance left by earlier requests.

    Source:
        Chien et al. 2024; Bok, Su and Altschuler 2024; theory §5.

    Example:
        >>> mechanism = NoisySGDMechanism.calibrated(
        ...     1.0, 1e-5, reference="retrained", learning_rate=1.0, ridge=0.04, batches=10, batch_size=100,
        ...     changed=1, trained_epochs=50, start=0.0, carried=0.0, steps=10)
        >>> round(mechanism.sigma, 4), round(mechanism.epsilon(1e-5), 6)
        (0.0785, 1.0)
    """

    name = "projected_noisy_sgd"

    reference: Literal["retrained"]
    learning_rate: float
    ridge: float
    batches: int
    batch_size: int
    changed: int
    trained_epochs: int
    start: float
    carried: float

    def __post_init__(self) -> None:
        if self.reference != "retrained":
            raise ValueError(f"projected noisy SGD is compared with 'retrained' only, got {self.reference!r}")
        if self.learning_rate * (SOFTMAX_SMOOTHNESS + self.ridge) > 1:
            largest = 1 / (SOFTMAX_SMOOTHNESS + self.ridge)
            raise ValueError(
                f"learning_rate = {self.learning_rate} is above 1/(1/2 + ridge) = {largest:.6g}, where a step need "
                "not contract; lower it"
            )
        check_non_negative(carried=self.carried, start=self.start)  # a sum of both may be above 0 nevertheless
        super().__post_init__()

    def bounds(self) -> tuple[float, float]:
        """``c = 1 - ηλ``; both runs step on the same data."""
        return 1 - self.learning_rate * self.ridge, 0.0

    def initial_distance(self) -> float:
        """Z of theory §5, and what earlier requests left."""
        return self.carried + noisy_sgd_distance(
            learning_rate=self.learning_rate,
            ridge=self.ridge,
            batches=self.batches,
            batch_size=self.batch_size,
            changed=self.changed,
            epochs=self.trained_epochs,
            start=self.start,
        )

    def left(self) -> float:
        """Distance after these steps, which the next request carries."""
        return float(self.bounds()[0] ** self.steps) * self.initial_distance()

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        trial = cls(sigma=1.0, **constants)
        sigma = pnsgd_sigma(
            epsilon,
            delta,
            distance=trial.initial_distance(),
            learning_rate=trial.learning_rate,
            ridge=trial.ridge,
            steps=trial.steps,
        )
        return cls(sigma=sigma * SLACK, **constants)


def noisy_sgd_distance(
    *,
    learning_rate: float,
    ridge: float,
    batches: int,
    batch_size: int,
    changed: int,
    epochs: int,
    start: float,
) -> float:
    """``pnsgd_distance`` with the Lipschitz constant of the softmax head."""
    return pnsgd_distance(
        learning_rate=learning_rate,
        ridge=ridge,
        lipschitz=SOFTMAX_LIPSCHITZ,
        samples=batches * batch_size,
        batch_size=batch_size,
        changed=changed,
        epochs=epochs,
        start=start,
    )
