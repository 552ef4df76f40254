"""Gradient clipping, one block of parameters after the other (theory §4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from ..accounting import gradient_clipping_sigma, gradient_shift
from .base import SLACK
from .clipping import BallMechanism, GradientClippingMechanism


@dataclass(frozen=True, kw_only=True)
class BlockwiseMechanism(BallMechanism):
    """k disjoint blocks in turn: T steps of gradient clipping on one while all others stand still.

    Block i has ``D_i = C0 √w_i`` and ``C1 √w_i``, w_i its part of all parameters. For any values that the other blocks
    have, alike in both runs or not, its T steps are μ_i-GDP, because the clip bounds all influence of the others. So
    the blocks compose adaptively, ``μ² = Σ μ_i²``; as μ_i is ``√w_i`` of the μ of gradient clipping with the same
    C0, C1 and T, the noise of a step is that of gradient clipping, however many blocks there are.

    Args:
        clip_norm: C1 >= 0, of the gradient of all blocks together.
        learning_rate: γ >= 0.
        weight_decay: λ >= 0, pull to the anchor, γλ <= 1.
        sizes: parameters in each block, in the order of their turns.

    Raises:
        ValueError: also if the steps are not the same number for each block.

    Source:
        Dolgova and Stich 2026 (algorithm); Dong, Roth and Su 2022, section 3 (adaptive composition); theory §4.

    Example:
        >>> constants = {"reference": "anchor", "radius": 1.0, "clip_norm": 1.0, "learning_rate": 0.01,
        ...              "weight_decay": 0.0}
        >>> blocks = BlockwiseMechanism.calibrated(1.0, 1e-5, steps=300, sizes=[10, 20, 70], **constants)
        >>> whole = GradientClippingMechanism.calibrated(1.0, 1e-5, steps=100, **constants)
        >>> round(blocks.sigma / whole.sigma, 9), round(blocks.epsilon(1e-5), 6)
        (1.0, 1.0)
    """

    name = "blockwise"

    clip_norm: float
    learning_rate: float
    weight_decay: float
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))  # JSON knows lists only
        if not self.sizes or any(type(size) is not int or size < 1 for size in self.sizes):
            raise ValueError(f"sizes must be whole numbers >= 1, one of each block, got {self.sizes}")
        if type(self.steps) is int and self.steps % len(self.sizes):
            raise ValueError(f"steps must be the same for each of {len(self.sizes)} blocks, got {self.steps} in all")
        super().__post_init__()

    @property
    def steps_per_block(self) -> int:
        """T."""
        return self.steps // len(self.sizes)

    def block(self, index: int) -> GradientClippingMechanism:
        """The steps of one block, by themselves."""
        scale = math.sqrt(self.sizes[index] / sum(self.sizes))
        return GradientClippingMechanism(
            reference=self.reference,
            radius=self.radius * scale,
            clip_norm=self.clip_norm * scale,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps_per_block,
            sigma=self.sigma,
        )

    def at(self, step: int) -> GradientClippingMechanism:
        """The block whose turn it is."""
        return self.block(step // self.steps_per_block)

    def bounds(self) -> tuple[float, float]:
        """``c = 1 - γλ``; s of all blocks together, of which a step moves one."""
        contraction = 1 - self.learning_rate * self.weight_decay
        return contraction, gradient_shift(self.reference, self.clip_norm, self.learning_rate)

    def final_noise(self) -> float:
        """That of any block."""
        return self.block(0).final_noise()

    def kept_radius(self) -> float:
        """``c^T C0``: the blocks are orthogonal, and ``Σ D_i² = C0²``."""
        return math.hypot(*(self.block(index).kept_radius() for index in range(len(self.sizes))))

    def displacement(self) -> float:
        """``c^T C0 + γ C1 Σ c^k``, k < T."""
        return math.hypot(*(self.block(index).displacement() for index in range(len(self.sizes))))

    def mu(self) -> float:
        """Adaptive composition over the blocks."""
        return math.hypot(*(self.block(index).mu() for index in range(len(self.sizes))))

    def pieces(self) -> list[tuple[float, float, float]]:
        """The pieces of each block's own account, in the order of their turns."""
        return [piece for index in range(len(self.sizes)) for piece in self.block(index).pieces()]

    @classmethod
    def calibrated(cls, epsilon: float, delta: float, **constants: Any) -> Self:
        """See the base class."""
        whole = {name: value for name, value in constants.items() if name not in ("sizes", "steps")}
        steps = constants["steps"] // len(constants["sizes"])
        return cls(sigma=gradient_clipping_sigma(epsilon, delta, steps=steps, **whole) * SLACK, **constants)

    def constants(self) -> dict[str, Any]:
        """See the base class."""
        return {**super().constants(), "sizes": list(self.sizes)}
