"""Certified unlearning by noisy steps along clipped gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..accounting import Reference, gradient_clipping_steps
from ..certificates import Target
from ..mechanisms import GradientClippingMechanism
from ..operator_card import OperatorCard
from .bases.noisy_phase import NoisyPhase
from .guards.exposure import INITIALISATION
from .noise.noisy_sgd import Vector, clip_
from .noise.rounding import clip_norm_within, reach


class GradientClipping(NoisyPhase):
    """Clip the weights around the anchor, take noisy clipped-gradient steps, then train freely on retained data.

    ``x₀ = θ₀ + Π_C0(θ̂ - θ₀)``; ``x ← x - γ(Π_C1(g) + λ(x - θ₀)) + σξ``, g the mean gradient of the whole batch over
    all devices and accumulated batches. σ is calibrated from the target, or given, and then ε follows.

    Guarantee: certified (ε, δ), for any loss and network. Stores one copy of the exposed parameters if λ > 0. One
    gradient evaluation per step.

    Args:
        epsilon: ε asked for; None if ``sigma`` is given.
        delta: δ; 1e-7 keeps the pixel-level consequence small up to 100,000 pixels (theory §3).
        radius: C0 > 0. The part of the weights that is kept and the noise grow with it alike, so it does not change
            how much of them survives, but how far the noise carries them from the anchor.
        clip_norm: C1 > 0, of the whole gradient.
        learning_rate: γ > 0, constant, of the noisy steps only.
        weight_decay: λ >= 0, pull to the anchor, outside the clip.
        steps: T >= 1, or ``auto``: those that need the least noise per step.
        reference: see :data:`~erode.accounting.Reference`. ``noise`` compares with a run that takes no gradient in
            the noisy phase, and needs the least noise.
        anchor: see :class:`~erode.callbacks.bases.noisy_phase.NoisyPhase`.
        exposed: see there.
        sigma: σ of each step; then ε follows.
        shrink: see there.
        seed: debugging only: no certificate.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: see :class:`~erode.callbacks.bases.noisy_phase.NoisyPhase`.

    Source:
        Koloskova et al. 2025; account by Bok, Su and Altschuler 2024; theory §4.

    Example:
        >>> operator = GradientClipping(epsilon=1.0, delta=1e-5, radius=0.1, clip_norm=1.0, learning_rate=0.01)
        >>> operator.mechanism.steps, round(operator.mechanism.sigma, 3)
        (10, 0.472)
    """

    alike = True
    card = OperatorCard(
        guarantee="certified",
        scope="any loss, any network",
        paper="Koloskova et al. 2025 (arXiv 2506.06985), centred on an anchor, account of Bok et al. 2024; theory §4",
        trains_on="noisy steps on retained data, then your own training on it",
        needs=("retained data", "anchor"),
        requests=("item", "pixel"),
        stores="one copy of the exposed parameters (the anchor), if it decays",
        technique="certified removal",
        manipulation="model shifting",
        config="unlearn/gradient_clipping.yaml",
        page="gradient_clipping.md",
    )
    mechanism: GradientClippingMechanism

    def __init__(
        self,
        epsilon: float | None = 1.0,
        delta: float = 1e-7,
        radius: float = 1e-3,
        clip_norm: float = 1.0,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        steps: int | Literal["auto"] = "auto",
        reference: Reference = "retrained",
        anchor: str | Path = INITIALISATION,
        exposed: Sequence[str] | None = None,
        sigma: float | None = None,
        shrink: bool = True,
        seed: int | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.radius = radius
        self.clip_norm = clip_norm
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.steps = steps
        self.reference = reference
        self.sigma = sigma
        self.keeps_anchor = weight_decay > 0
        self._clip_norm = clip_norm  # until the anchor tells what rounding takes of it
        super().__init__(self._mechanism(), Target(epsilon=epsilon, delta=delta), anchor, exposed, shrink, seed, folder)

    def allow_for_rounding(self, anchor: Vector) -> None:
        """Of radius and clip norm."""
        super().allow_for_rounding(anchor)
        self._clip_norm = clip_norm_within(self.mechanism, anchor)
        self._reach = reach(self.mechanism, anchor)

    def update(self, weights: Vector, gradients: Vector, anchor: Vector) -> None:
        """Decay towards the anchor, then step along the clipped gradient."""
        clip_(gradients, self._clip_norm)
        rate = self.mechanism.learning_rate  # of the account, whatever the attribute came to be
        decay = rate * self.mechanism.weight_decay
        if decay:
            torch._foreach_lerp_(list(weights), list(anchor), decay)
        torch._foreach_add_(list(weights), list(gradients), alpha=-rate)

    def _mechanism(self) -> GradientClippingMechanism:
        constants: dict[str, Any] = {
            "reference": self.reference,
            "radius": self.radius,
            "clip_norm": self.clip_norm,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }
        steps = gradient_clipping_steps(**constants) if self.steps == "auto" else self.steps
        return GradientClippingMechanism.from_target(self.epsilon, self.delta, self.sigma, steps=steps, **constants)
