"""What every certified mechanism is: constants, and the guarantee that follows from them (theory §3, §4)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from ..accounting import NoisyIteration, gdp_delta, gdp_epsilon
from ..accounting.checks import check_delta, check_positive

SLACK = 1 + 1e-9
"""Factor on a calibrated σ: rounding of the root must not cost the certificate."""

REFERENCES = {
    "retrained": "the same unlearning, applied to a model trained without the forget set",
    "anchor": "the same unlearning, started at the anchor",
    "noise": "the noisy phase started at the anchor and without gradients, then the same training on retained data",
    "minimiser": "the exact minimiser of the objective on retained data, plus the same noise",
}
"""What the released weights are compared with, in words."""

MEANINGFUL_EPSILON = 10.0
"""Above, the odds of telling two models apart may change by more than 20,000: hardly a promise any more."""

MOST_STEPS = 10**7
"""Draws of noise that a run may take: ``erode verify`` goes through them one by one, a few microseconds each."""


@dataclass(frozen=True, kw_only=True)
class Mechanism(ABC):
    """All constants of one certified unlearning; no weights, no torch.

    Subclasses are frozen dataclasses that name themselves, add their constants, and say how far apart two runs may
    start (:meth:`initial_distance`) and drift (:meth:`bounds`); μ, ε and δ follow.

    Args:
        reference: the run that never saw the forget set, by its name in ``REFERENCES``.
        steps: T >= 1 draws of noise.
        sigma: σ > 0, standard deviation of each draw per coordinate.

    Raises:
        ValueError: if a constant is out of range.
    """

    name: ClassVar[str]
    """What certificates call it."""

    reference: str
    steps: int
    sigma: float

    def __post_init__(self) -> None:
        check_positive(sigma=self.sigma)
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps must be a whole number >= 1, got {self.steps!r}")
        self.mu()  # whatever else is out of range, the account refuses

    def compared_with(self) -> str:
        """The reference in words."""
        return REFERENCES[self.reference]

    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """``(c, s)`` of a step: ``‖φ(x) - φ'(y)‖ ≤ c ‖x - y‖ + s``."""

    @abstractmethod
    def initial_distance(self) -> float:
        """Δ, largest distance of the two starts."""

    def account_step(self, account: NoisyIteration) -> None:
        """Add one step to an account."""
        contraction, shift = self.bounds()
        account.step(contraction=contraction, shift=shift, sigma=self.sigma)

    def account(self) -> NoisyIteration:
        """The account of all steps, in closed form as they are equal; a mechanism with a schedule overrides this."""
        account = NoisyIteration()
        contraction, shift = self.bounds()
        account.repeat(self.steps, contraction=contraction, shift=shift, sigma=self.sigma)
        return account

    def pieces(self) -> list[tuple[float, float, float]]:
        """The state of an account that was kept step by step, as certificates hold it: rounding has its part in it."""
        account = NoisyIteration()
        for _ in range(self.steps):
            self.account_step(account)
        return account.blocks

    def at(self, step: int) -> Mechanism:
        """What accounts for one step, counted from 0; the whole unless it has parts."""
        return self

    def mu(self) -> float:
        """μ of all steps together."""
        return self.account().mu(self.initial_distance())

    def final_noise(self) -> float:
        """σ_f: standard deviation per coordinate of all noise that is there after the last step, ``sqrt(V_T)``."""
        variance = 0.0
        for _, rise, gap in self.account().blocks:
            variance = variance * gap * gap + rise
        return math.sqrt(variance)

    def displacement(self) -> float:
        """Largest distance from the anchor after the last step, but for the noise: ``D_T`` of a start Δ away."""
        distance = self.initial_distance()
        for rise, _, gap in self.account().blocks:
            distance = distance * gap + rise
        return distance

    def kept_radius(self) -> float:
        """Largest norm of what is left of the trained start after the last step: ``Δ ∏c``."""
        return self.initial_distance() * math.prod(gap for _, _, gap in self.account().blocks)

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
            ValueError: if both or neither are given, a constant is out of range, or the steps are more than
                ``MOST_STEPS``.
        """
        check_delta(delta)
        if constants.get("steps", 1) > MOST_STEPS:
            raise ValueError(
                f"steps = {constants['steps']:,} are more than the {MOST_STEPS:,} of which erode verify recomputes the "
                "account; take fewer"
            )
        if epsilon is not None and epsilon <= 0:
            raise ValueError(
                f"epsilon = {epsilon:g} asks for more than noise can give: epsilon > 0, or exact unlearning (Retrain, "
                "Rewind)"
            )
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
