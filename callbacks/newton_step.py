"""Certified unlearning of a convex head by one Newton step and one Gaussian."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..accounting import ConvexReference, newton_gradient
from ..certificates import Target
from ..mechanisms import NewtonMechanism
from ..operator_card import OperatorCard
from ..ridge import RidgeObjective
from .bases.head_operator import HeadOperator


class NewtonStep(HeadOperator):
    """Take one Newton step of the retained objective from the original weights, then add noise.

    ``w ← ŵ - (∇²F_r(ŵ))⁻¹ ∇F_r(ŵ) + σξ``, with ``σ = M (2mL/n + τ₀)²/(2λ³) / μ``. The published step computes the same
    gradient and Hessian from the forget data and a stored Hessian, trusting that ŵ is a minimiser. Here both come
    from the retained data, so nothing is stored, and ŵ is checked: where ``‖∇F_r(ŵ)‖ > 2mL/n + τ₀``, the original
    training did not end as was said, or more images changed; nothing is released and the certificate says why.

    The noise grows with (m/n)²/λ³: this is for a few masks of many. Where most masks change, take
    :class:`~erode.callbacks.ResidualCertificate`.

    Guarantee: certified (ε, δ), for a strongly convex head. Stores the features of the training set while it runs; two
    passes over them.

    Args:
        samples: n, images of the training set; refining a mask does not change it.
        changed: m, images of which any label changed between the original training and the retained data.
        epsilon: ε asked for; None if ``sigma`` is given.
        delta: δ.
        residual: τ₀, gradient norm at which the original training stopped (``tolerance`` of the module).
        ridge: λ of the module, and of the original training.
        reference: see :data:`~erode.accounting.ConvexReference`.
        anchor: see :class:`~erode.callbacks.bases.head_operator.HeadOperator`.
        sigma: σ; then ε follows.
        seed: debugging only: no certificate.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: see :class:`~erode.callbacks.bases.head_operator.HeadOperator`; also for another n.

    Source:
        Sekhari et al. 2021, "Remember what you want to forget"; theory §5.

    Example:
        >>> operator = NewtonStep(samples=2000, changed=2, epsilon=1.0, delta=1e-5, ridge=0.1)
        >>> f"{operator.mechanism.sigma:.2e}"
        '4.06e-03'
    """

    card = OperatorCard(
        guarantee="certified",
        scope="a strongly convex head on a frozen, unexposed encoder",
        paper="Sekhari et al. 2021 (arXiv 2103.03279), calibrated exactly, with the start checked; theory §5",
        trains_on="a pixel head, on the retain view; for few images of many",
        needs=("retained data", "unexposed encoder"),
        requests=("item", "pixel"),
        stores="the features of the training set, while it runs (4 bytes per labelled pixel and channel)",
        costs="one gradient and one Hessian over the retained images, no optimiser step",
        evaluations_per_step=0.0,
        technique="certified removal",
        manipulation="model shifting",
        config="unlearn/newton_step.yaml",
        page="newton_step.md",
    )

    passes = (2, 2)

    mechanism: NewtonMechanism

    def __init__(
        self,
        samples: int,
        changed: int,
        epsilon: float | None = 1.0,
        delta: float = 1e-7,
        residual: float = 1e-9,
        ridge: float = 1e-3,
        reference: ConvexReference = "minimiser",
        anchor: str | Path | None = None,
        sigma: float | None = None,
        seed: int | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.samples = samples
        self.changed = changed
        self.epsilon = epsilon
        self.delta = delta
        self.residual = residual
        self.ridge = ridge
        self.reference = reference
        self.sigma = sigma
        mechanism = NewtonMechanism.from_target(
            epsilon, delta, sigma, samples=samples, changed=changed, residual=residual, ridge=ridge, reference=reference
        )
        super().__init__(mechanism, Target(epsilon=epsilon, delta=delta), anchor, seed, folder)

    def move(self, objective: RidgeObjective, start: Tensor) -> Tensor | None:
        """The end of the step, with noise."""
        made = self.mechanism  # the account's constants, whatever the attributes came to be
        self.check_samples(objective, made.samples)
        gradient = objective.gradient(start)
        allowed = newton_gradient(samples=made.samples, changed=made.changed, residual=made.residual)
        if not float(torch.linalg.vector_norm(gradient)) <= allowed:
            self._why_not = (
                f"the original weights are not what samples, changed and residual say: the gradient of the retained "
                f"objective is above {allowed:.3g}; fit to the tolerance given as residual, with this ridge, or raise "
                "changed to the number of images whose labels differ"
            )
            return None
        return self.add_noise(start - objective.newton_direction(start, gradient))
