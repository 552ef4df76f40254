"""Certified unlearning of a convex head: minimise on retained data, then one Gaussian."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..accounting import ConvexReference
from ..certificates import Target
from ..mechanisms import ResidualMechanism
from ..operator_card import OperatorCard
from ..ridge import RidgeObjective, minimise
from .bases.head_operator import HeadOperator


class ResidualCertificate(HeadOperator):
    """Minimise the retained objective to a gradient of τ, then add noise ``σ = (τ/λ)/μ``.

    ``‖w - w*‖ ≤ ‖∇F(w)‖/λ`` for a λ-strongly convex F, so wherever the search started, the result hides behind noise
    of that size. The gradient is measured in double precision over all retained data; where it stays above τ,
    nothing is released and the certificate says why. τ is a solver's tolerance, so the noise is negligible.

    Guarantee: certified (ε, δ), for a strongly convex head. Stores the features of the training set while it runs;
    about ten passes over them.

    Args:
        epsilon: ε asked for; None if ``sigma`` is given.
        delta: δ.
        tolerance: τ, fixed before the data are seen; one that double precision cannot measure is refused
            (:func:`~erode.accounting.residual_floor`).
        ridge: λ of the module; the guarantee rests on it, so it is given here too.
        reference: see :data:`~erode.accounting.ConvexReference`.
        anchor: see :class:`~erode.callbacks.bases.head_operator.HeadOperator`.
        sigma: σ; then ε follows.
        seed: debugging only: no certificate.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: see :class:`~erode.callbacks.bases.head_operator.HeadOperator`.

    Source:
        Guo et al. 2020, Neel et al. 2021 (idea); theory §5.

    Example:
        >>> operator = ResidualCertificate(epsilon=1.0, delta=1e-5, tolerance=1e-9, ridge=1e-3)
        >>> f"{operator.mechanism.sigma:.2e}"
        '3.73e-06'
    """

    card = OperatorCard(
        guarantee="certified",
        scope="a strongly convex head on a frozen, unexposed encoder",
        paper="residual certificate, after Guo et al. 2020 and Neel et al. 2021; theory §5",
        trains_on="a pixel head, on the retain view",
        needs=("retained data", "unexposed encoder"),
        requests=("item", "pixel"),
        stores="the features of the training set, while it runs (4 bytes per labelled pixel and channel)",
        costs="10 to 20 passes of Newton's method, no optimiser step",
        evaluations_per_step=0.0,
        technique="certified removal",
        manipulation="model shifting",
        config="unlearn/residual_certificate.yaml",
        page="residual_certificate.md",
    )

    fixed_effort = False  # it minimises from the trained head
    passes = (10, 20)

    mechanism: ResidualMechanism

    def __init__(
        self,
        epsilon: float | None = 1.0,
        delta: float = 1e-7,
        tolerance: float = 1e-9,
        ridge: float = 1e-3,
        reference: ConvexReference = "minimiser",
        anchor: str | Path | None = None,
        sigma: float | None = None,
        seed: int | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.tolerance = tolerance
        self.ridge = ridge
        self.reference = reference
        self.sigma = sigma
        mechanism = ResidualMechanism.from_target(
            epsilon, delta, sigma, tolerance=tolerance, ridge=ridge, reference=reference
        )
        super().__init__(mechanism, Target(epsilon=epsilon, delta=delta), anchor, seed, folder)

    def move(self, objective: RidgeObjective, start: Tensor) -> Tensor | None:
        """The minimiser to τ, with noise."""
        tolerance = self.mechanism.tolerance  # of the account, whatever the attribute came to be
        weights, norm, _ = minimise(objective, start, tolerance)
        if not norm <= tolerance:
            self._why_not = (
                f"the gradient over the retained data did not come below tolerance = {tolerance:.3g}; raise "
                "tolerance (the noise grows with it) or ridge"
            )
            return None
        return self.add_noise(weights)
