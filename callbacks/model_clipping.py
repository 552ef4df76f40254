"""Certified unlearning by noisy steps that end in a ball."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ..accounting import Reference, contraction_steps
from ..accounting.checks import check_non_negative
from ..certificates import Target
from ..mechanisms import ModelClippingMechanism
from ..operator_card import OperatorCard
from .bases.noisy_phase import NoisyPhase
from .guards.exposure import INITIALISATION
from .noise.noisy_sgd import Vector, project_


class ModelClipping(NoisyPhase):
    """Take noisy steps, each projected to a ball around the anchor, then train freely on retained data.

    ``x ← θ₀ + Π_C2(x - γ(g + λ(x - θ₀)) - θ₀) + σξ`` from ``x₀ = θ₀ + Π_C2(θ̂ - θ₀)``. The gradient is not clipped:
    learning rate and decay do not enter the guarantee. Each step forgets most of what was before, so more steps
    need less noise, and keep less. σ is calibrated from the target, or given, and then ε, or the number of steps,
    follows.

    Guarantee: certified (ε, δ), for any loss and network. Stores one copy of the exposed parameters. One gradient
    evaluation per step.

    Args:
        epsilon: ε asked for; None if ``sigma`` is given with a number of steps.
        delta: δ; 1e-7 keeps the pixel-level consequence small up to 100,000 pixels (theory §3).
        radius: C2 > 0.
        learning_rate: γ >= 0, constant, of the noisy steps only.
        weight_decay: λ >= 0, pull to the anchor, inside the projection.
        steps: T >= 1, or ``auto``: the fewest that reach ``epsilon`` with ``sigma``.
        reference: see :data:`~erode.accounting.Reference`. For ``noise``, one draw around the anchor, further steps do
            not lower the noise.
        anchor: see :class:`~erode.callbacks.bases.noisy_phase.NoisyPhase`.
        exposed: see there.
        sigma: σ of each step.
        shrink: see there.
        seed: debugging only: no certificate.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: see :class:`~erode.callbacks.bases.noisy_phase.NoisyPhase`.

    Source:
        Koloskova et al. 2025; contraction by Asoodeh et al. 2020 and Balle et al. 2018; theory §4.

    Example:
        >>> operator = ModelClipping(epsilon=1.0, delta=1e-5, radius=1.0, steps="auto", sigma=1.0)
        >>> operator.mechanism.steps
        6
    """

    alike = True
    only_of_weights = True
    card = OperatorCard(
        guarantee="certified",
        scope="any loss, any network",
        paper="Koloskova et al. 2025 (arXiv 2506.06985), on an anchor; contraction of Asoodeh et al. 2020; theory §4",
        trains_on="noisy steps on retained data, then your own training on it",
        needs=("retained data", "anchor"),
        requests=("item", "pixel"),
        stores="one copy of the exposed parameters (the anchor)",
        technique="certified removal",
        manipulation="model shifting",
        config="unlearn/model_clipping.yaml",
        page="model_clipping.md",
    )

    def __init__(
        self,
        epsilon: float | None = 1.0,
        delta: float = 1e-7,
        radius: float = 1e-2,
        learning_rate: float = 1e-2,
        weight_decay: float = 0.0,
        steps: int | Literal["auto"] = 10,
        reference: Reference = "retrained",
        anchor: str | Path = INITIALISATION,
        exposed: Sequence[str] | None = None,
        sigma: float | None = None,
        shrink: bool = True,
        seed: int | None = None,
        folder: str | Path | None = None,
    ) -> None:
        check_non_negative(learning_rate=learning_rate, weight_decay=weight_decay)
        self.epsilon = epsilon
        self.delta = delta
        self.radius = radius
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.steps = steps
        self.reference = reference
        self.sigma = sigma
        super().__init__(self._mechanism(), Target(epsilon=epsilon, delta=delta), anchor, exposed, shrink, seed, folder)

    def update(self, weights: Vector, gradients: Vector, anchor: Vector) -> None:
        """Decay towards the anchor and step along the gradient, then project."""
        decay = self.learning_rate * self.weight_decay
        if decay:
            torch._foreach_lerp_(list(weights), list(anchor), decay)
        torch._foreach_add_(list(weights), list(gradients), alpha=-self.learning_rate)
        project_(weights, anchor, self._radius)

    def _mechanism(self) -> ModelClippingMechanism:
        if self.steps != "auto":
            return ModelClippingMechanism.from_target(
                self.epsilon, self.delta, self.sigma, reference=self.reference, radius=self.radius, steps=self.steps
            )
        if self.epsilon is None or self.sigma is None or self.reference == "noise":
            raise ValueError(
                "steps='auto' needs epsilon and sigma, and a reference other than 'noise', from which no step "
                "contracts; or give a number of steps"
            )
        steps = contraction_steps(self.epsilon, self.delta, self.radius, self.sigma)
        return ModelClippingMechanism(reference=self.reference, radius=self.radius, steps=steps, sigma=self.sigma)
