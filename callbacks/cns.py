"""Certified unlearning by one projected Newton step on retained data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from ..accounting import Reference, rounded_up
from ..accounting.checks import check_non_negative, check_positive, check_steps
from ..certificates import Target
from ..curvature import extreme_eigenvalue, flatten, lissa, unflatten
from ..mechanisms import CNSMechanism, published_sensitivity
from ..operator_card import Effort, OperatorCard
from .bases.noisy_phase import NoisyPhase
from .bases.retained_loss import RetainedLoss
from .guards.exposure import INITIALISATION, Anchor
from .noise.noisy_sgd import Vector, project_

BATCHES = 4
"""Batches on which curvature is measured."""

MARGIN = 1.25
"""Factor on the measured curvature: other batches may be steeper."""


class CNS(NoisyPhase):
    """Clip the weights around the anchor, take one Newton step on retained data, clip, add one Gaussian.

    ``x₀ = θ₀ + Π_C(θ̂ - θ₀)``; ``x ← θ₀ + Π_C(x₀ - (H + λI)⁻¹(∇L_r(x₀) + λ(x₀ - θ₀)) - θ₀) + σξ``: the minimiser of a
    local convex approximation of the retained loss with the ridge ``λ/2 ‖x - θ₀‖²``. The inverse is applied by LiSSA.
    All takes place before the first step; the whole run is the free phase.

    Guarantee: certified (ε, δ), for any loss and network, **by the diameter of the ball** (2C; C for ``noise``), which
    holds whatever the step does. The published sensitivity ``2C(MC + λ)/(λ + λ_min)`` is never smaller where the loss
    is not convex; the record gives it, measured at the released noisy weights, for comparison. Stores one copy of the
    exposed parameters; costs ``restarts * iterations`` Hessian-vector products (about two gradient evaluations each),
    one gradient over all data, and the products for the curvature.

    Requests in sequence: start each run at the weights that the run before released. Then what was forgotten before
    stays certified as it was, because all later runs only process released weights and retained data.

    Args:
        epsilon: ε asked for; None if ``sigma`` is given.
        delta: δ; 1e-7 keeps the pixel-level consequence small up to 100,000 pixels (theory §3).
        radius: C > 0.
        ridge: λ > 0. Where it does not exceed the most negative curvature, the approximation has no minimum and no
            step is taken. That is neither refused nor recorded, for it tells of weights that have no noise yet; a
            warning follows from the curvature at the weights with noise.
        scale: s of LiSSA; None = 1.25 times the largest curvature, by power iteration on four batches.
        restarts: LiSSA runs that are averaged.
        iterations: of LiSSA, one batch each.
        power_iterations: for each curvature that is measured.
        hessian_lipschitz: M, for the published sensitivity only; 0 gives its lower bound.
        reference: see :data:`~erode.accounting.Reference`. ``anchor`` needs the noise of ``retrained``: that run takes
            a Newton step too.
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
        Zhang B. et al. 2024, "Towards certified unlearning for deep neural networks"; theory §5.

    Example:
        >>> round(CNS(epsilon=1.0, delta=1e-5, radius=1.0).mechanism.sigma, 3)
        7.461
    """

    card = OperatorCard(
        guarantee="certified",
        scope="any loss, any network, by the diameter of the ball",
        paper="CNS (Zhang B. et al. 2024, arXiv 2408.00920), projected to a ball; theory §5",
        trains_on="one noisy Newton step on retained data, then your own training on it",
        needs=("retained data", "anchor"),
        requests=("item", "pixel"),
        stores="one copy of the exposed parameters (the anchor)",
        costs="once restarts × iterations Hessian-vector products on a batch, 4 × power iterations on four batches, "
        "and one gradient over all data; then one gradient evaluation per step",
        technique="certified removal",
        manipulation="model shifting",
        config="unlearn/cns.yaml",
        page="cns.md",
    )
    mechanism: CNSMechanism
    noise_first = True

    def __init__(
        self,
        epsilon: float | None = 1.0,
        delta: float = 1e-7,
        radius: float = 1e-3,
        ridge: float = 10.0,
        scale: float | None = None,
        restarts: int = 2,
        iterations: int = 50,
        power_iterations: int = 15,
        hessian_lipschitz: float = 0.0,
        reference: Reference = "retrained",
        anchor: str | Path = INITIALISATION,
        exposed: Sequence[str] | None = None,
        sigma: float | None = None,
        shrink: bool = True,
        seed: int | None = None,
        folder: str | Path | None = None,
    ) -> None:
        check_positive(ridge=ridge, **({} if scale is None else {"scale": scale}))
        check_non_negative(hessian_lipschitz=hessian_lipschitz)
        for number in (restarts, iterations, power_iterations):
            check_steps(number)
        self.epsilon = epsilon
        self.delta = delta
        self.radius = radius
        self.ridge = ridge
        self.scale = scale
        self.restarts = restarts
        self.iterations = iterations
        self.power_iterations = power_iterations
        self.hessian_lipschitz = hessian_lipschitz
        self.reference = reference
        self.sigma = sigma
        self._theta_0: list[Tensor] = []
        mechanism = CNSMechanism.from_target(epsilon, delta, sigma, reference=reference, radius=radius)
        super().__init__(mechanism, Target(epsilon=epsilon, delta=delta), anchor, exposed, shrink, seed, folder)
        self.optimizer_steps = 0

    def effort(self, batches: int | None) -> Effort:
        """The products of LiSSA, those for both extreme curvatures before and after the step, and one gradient."""
        curvature = 2 * self.power_iterations * min(BATCHES, BATCHES if batches is None else batches)
        products = self.restarts * self.iterations + 2 * curvature
        passes = 1.0 if batches is None else 0.0
        return Effort(2.0 * products + (batches or 0), passes, passes)

    def update(self, weights: Vector, gradients: Vector, anchor: Vector) -> None:
        """Subtract the Newton direction, which stands in the gradients, and clip."""
        torch._foreach_sub_(list(weights), list(gradients))
        project_(weights, anchor, self._radius)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the step, add the noise, hand the run back, and only then measure what is recorded."""
        if self._optimizer is None or self._taken:
            super().on_train_start(trainer, pl_module)
            return
        optimizer = self._optimizer
        weights: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        loss = RetainedLoss(trainer, pl_module, weights, lambda batch, i: self._check_batch(trainer, batch, i))
        with loss.quiet():
            direction = self.direction(loss, weights)
        for weight, part in zip(weights, unflatten(direction, weights), strict=True):
            weight.grad = part.clone()
        self._prepared.stop()  # what writes now is this operator; noted anew at the hand-over
        optimizer.step()
        optimizer.zero_grad()
        super().on_train_start(trainer, pl_module)
        with loss.quiet():
            self._record["curvature"] = self._comparison(loss, weights)
        self._record["hessian_vector_products"] = loss.products_taken
        self._record["evaluations_beside_steps"] = loss.evaluations
        self._reset_statistics()
        self.note_weights(trainer, pl_module)  # those that were looked at so far are no training

    def direction(self, loss: RetainedLoss, weights: Sequence[nn.Parameter]) -> Tensor:
        """``(H + λI)⁻¹`` times the gradient of the ridged retained loss, a vector ``[d]``.

        Zero where the approximation has no minimum, or LiSSA does not find it: the weights hold no noise yet, so
        neither whether a run goes on nor the products it counts may depend on them. The certificate holds for any step
        within the ball.
        """
        smallest, largest = self._curvature(loss, weights)
        with torch.no_grad():
            pull = flatten([w - anchor for w, anchor in zip(weights, self._theta_0, strict=True)])
        gradient = loss.gradient() + self.ridge * pull
        scale = MARGIN * (max(largest, 0.0) + self.ridge) if self.scale is None else self.scale
        products = loss.products()
        runs = []
        for _ in range(self.restarts):
            with suppress(FloatingPointError):
                runs.append(lissa(gradient, products, self.ridge, scale, self.iterations))
        found = smallest + self.ridge > 0 and len(runs) == self.restarts
        return torch.stack(runs).mean(0) if found else torch.zeros_like(gradient)

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """State by what it is certified."""
        distance = self.mechanism.initial_distance()
        return {**super().finish(trainer, module), "certified_by": f"the diameter of the ball: {rounded_up(distance)}"}

    def _curvature(self, loss: RetainedLoss, weights: Sequence[nn.Parameter]) -> tuple[float, float]:
        """Smallest and largest eigenvalue of the Hessian on the first batches, without ridge."""
        product = loss.mean_product(BATCHES)
        # Any start does that is alike on all processes and not special.
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(sum(w.numel() for w in weights), generator=generator).to(weights[0])
        first = extreme_eigenvalue(product, start, self.power_iterations)
        shifted = extreme_eigenvalue(lambda v: product(v) - first * v, start, self.power_iterations)
        other = shifted + first
        return min(first, other), max(first, other)

    def _comparison(self, loss: RetainedLoss, weights: Sequence[nn.Parameter]) -> dict[str, Any]:
        smallest, largest = self._curvature(loss, weights)
        published = published_sensitivity(self.radius, self.ridge, smallest, self.hessian_lipschitz)
        if smallest + self.ridge <= 0:
            rank_zero_warn(
                f"at the weights with noise the loss curves down by {-smallest:.1g}; where ridge = {self.ridge:g} does "
                "not make up for it, CNS takes no Newton step and is output perturbation; raise ridge above that"
            )
        rank_zero_info(f"CNS: published sensitivity {published}, diameter {2 * self.radius:g}, which is certified")
        return {
            "measured_at": "the weights with noise, by power iteration: an estimate, not a bound",
            "smallest": smallest,
            "largest": largest,
            "published_sensitivity": published,
            "diameter": 2 * self.radius,
        }

    def _check_batch(self, trainer: Trainer, batch: Any, index: int) -> None:
        self.on_train_batch_start(trainer, trainer.lightning_module, batch, index)

    def _take_over(
        self, trainer: Trainer, module: LightningModule, exposed: dict[str, nn.Parameter], anchor: Anchor
    ) -> None:
        self._theta_0 = [anchor.state[name] for name in exposed]
        super()._take_over(trainer, module, exposed, anchor)
