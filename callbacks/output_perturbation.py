"""Certified unlearning by one Gaussian on the clipped weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from ..accounting import Reference
from ..certificates import Target
from ..mechanisms import OutputPerturbationMechanism
from ..operator_card import OperatorCard
from .bases.noisy_phase import NoisyPhase
from .guards.exposure import INITIALISATION
from .noise.noisy_sgd import Vector


class OutputPerturbation(NoisyPhase):
    """Clip the weights around the anchor, add one Gaussian, then train freely on retained data.

    ``x ← θ₀ + Π_C0(θ̂ - θ₀) + σξ`` at fit start; the whole run is the free phase. At the same part of the weights
    kept it never needs more noise than gradient clipping. σ is calibrated from the target, or given, and then ε
    follows.

    Guarantee: certified (ε, δ), for any loss and network. Stores nothing; takes no gradient of its own.

    Args:
        epsilon: ε asked for; None if ``sigma`` is given.
        delta: δ; 1e-7 keeps the pixel-level consequence small up to 100,000 pixels (theory §3).
        radius: C0 > 0. The part of the weights that is kept and the noise grow with it alike.
        reference: see :data:`~erode.accounting.Reference`; ``anchor`` and ``noise`` are the same here.
        anchor: see :class:`~erode.callbacks.bases.noisy_phase.NoisyPhase`.
        exposed: see there.
        sigma: σ; then ε follows.
        shrink: see there.
        seed: debugging only: no certificate.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: see :class:`~erode.callbacks.bases.noisy_phase.NoisyPhase`.

    Source:
        Balle and Wang 2018 (exact calibration); theory §4.

    Example:
        >>> round(OutputPerturbation(epsilon=1.0, delta=1e-5, radius=1.0, reference="anchor").mechanism.sigma, 3)
        3.731
    """

    card = OperatorCard(
        guarantee="certified",
        scope="any loss, any network",
        paper="Gaussian mechanism (Balle and Wang 2018), centred on an anchor; theory §4",
        trains_on="your own training on retained data, after one draw of noise",
        needs=("retained data", "anchor"),
        requests=("item", "pixel"),
        costs="none of its own: the whole run is free training, one gradient evaluation per step",
        technique="certified removal",
        manipulation="model shifting",
        config="unlearn/output_perturbation.yaml",
        page="output_perturbation.md",
    )

    noise_first = True

    def __init__(
        self,
        epsilon: float | None = 1.0,
        delta: float = 1e-7,
        radius: float = 1e-3,
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
        self.reference = reference
        self.sigma = sigma
        self.keeps_anchor = False
        mechanism = OutputPerturbationMechanism.from_target(epsilon, delta, sigma, reference=reference, radius=radius)
        super().__init__(mechanism, Target(epsilon=epsilon, delta=delta), anchor, exposed, shrink, seed, folder)
        self.optimizer_steps = 0

    def update(self, weights: Vector, gradients: Vector, anchor: Vector) -> None:
        """Nothing but the noise."""

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Clip, add the noise, and hand the run back before its first step."""
        super().prepare(trainer, module)
        trainer.optimizers[0].step()  # the certified one, just installed
        self._hand_back_when_done(trainer)
