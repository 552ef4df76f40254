"""One Gaussian on a Newton step that ends in a ball around the anchor (theory §5, CNS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from ..accounting import gdp_mu
from .base import SLACK
from .clipping import OutputPerturbationMechanism

DIAMETER = "diameter"
"""The only sensitivity that holds without constants that nobody proved."""


@dataclass(frozen=True, kw_only=True)
class CNSMechanism(OutputPerturbationMechanism):
    """``x ← θ₀ + Π_C(x - v - θ₀) + σξ``, v any direction: an approximate Newton step on retained data.

    Two runs end in one ball, so they are at most its diameter 2C apart; C against the reference that takes no step
    and stays at the centre. The published sensitivity ``2C(MC + λ)/(λ + λ_min)`` is smaller only where ``λ_min > MC``,
    never for a loss that is not convex, and would need M and λ_min proved: it is not used.

    Args:
        sensitivity: ``diameter``, which certificates then name.

    Source:
        Zhang B. et al. 2024, "Towards certified unlearning for deep neural networks" (step); theory §5.

    Example:
        >>> mechanism = CNSMechanism.calibrated(1.0, 1e-5, reference="retrained", radius=1.0)
        >>> mechanism.initial_distance(), round(mechanism.sigma, 3)
        (2.0, 7.461)
    """

    name = "projected_newton"

    sensitivity: str = DIAMETER

    def __post_init__(self) -> None:
        if self.sensitivity != DIAMETER:
            raise ValueError(f"sensitivity must be {DIAMETER!r}, the one that is proved, got {self.sensitivity!r}")
        super().__post_init__()

    def initial_distance(self) -> float:
        """A run that starts at the anchor takes its own Newton step from there, so only ``noise`` is at the centre."""
        super().initial_distance()  # refuses references of other mechanisms
        return self.radius if self.reference == "noise" else 2 * self.radius

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        distance = cls(sigma=1.0, **constants).initial_distance()
        return cls(sigma=distance / gdp_mu(epsilon, delta) * SLACK, **constants)


def published_sensitivity(radius: float, ridge: float, smallest: float, lipschitz: float = 0.0) -> float | None:
    """What the paper would use: ``2C(MC + λ)/(λ + λ_min)``.

    Args:
        radius: C.
        ridge: λ.
        smallest: λ_min, smallest eigenvalue of the Hessian without ridge.
        lipschitz: M, Lipschitz constant of the Hessian; 0 gives a lower bound.

    Returns:
        The bound, or None where ``λ + λ_min <= 0`` and it does not exist.

    Source:
        Zhang B. et al. 2024, theorem 3.4.

    Example:
        >>> published_sensitivity(10.0, ridge=200.0, smallest=0.0, lipschitz=1.0)
        21.0
    """
    convexity = ridge + smallest
    return 2 * radius * (lipschitz * radius + ridge) / convexity if convexity > 0 else None
