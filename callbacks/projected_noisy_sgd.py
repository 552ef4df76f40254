"""Certified unlearning of a convex head by more epochs of projected noisy SGD."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..accounting import pnsgd_epochs
from ..certificates import Target
from ..mechanisms import NoisySGDMechanism
from ..operator_card import Effort, OperatorCard
from ..ridge import RidgeObjective, noisy_sgd
from .bases.head_operator import HeadOperator, head_of
from .noisy_learning import FILE, Process, head_digest

_STORED = 2.0**-22
"""Part of R by which weights of two runs may have moved apart when they were stored in single precision.

At most 2⁻²⁴ R each; as much again covers the rounding of all steps, which are computed in double precision, where
``ηλ > 1e-8``.
"""


class ProjectedNoisySGD(HeadOperator):
    """Go on with projected noisy SGD on the retained data until what differed has faded into the noise.

    ``w ← Π_R(w - η ∇F_B(w) + σξ)``, fixed cyclic batches. With ``learned``, the file of a
    :class:`~erode.callbacks.NoisyLearning` run or of an earlier request, the start is known to be within Z of a model
    that never saw the forget set, however long it was trained; several requests add up by ``Z ← c^{Kn/b} Z + Z_B``.
    Without it, or where it is smaller, the diameter 2R of the ball is used, which holds for any start. A free phase
    (``min_steps``, ``min_epochs``) keeps the certificate, but ends the process: its steps need not contract, so no file
    is written, and the next request counts the ball.

    Guarantee: certified (ε, δ), for a strongly convex head, compared with the same process on the retained data.
    Stores the features of the training set while it runs. One pass over them per epoch.

    Args:
        samples: n, images of the training set.
        changed: m, images that changed, or of which any label did, with this request. With ``learned`` they are
            counted, and more than m are refused; without, nothing depends on it.
        epsilon: ε asked for; None if ``sigma`` is given with a number of epochs.
        delta: δ.
        epochs: K >= 1, or ``auto``: the fewest that reach ``epsilon`` with ``sigma``.
        learned: ``noisy_learning.json`` that belongs to the weights; None = nothing is known of how they were learnt.
        learning_rate: η, at most ``1/(1/2 + λ)``.
        ridge: λ of the module.
        batch_size: b.
        radius: R > 0. The minimiser lies within ``sqrt(2 ln K / λ)``, K classes.
        anchor: see :class:`~erode.callbacks.bases.head_operator.HeadOperator`.
        sigma: σ of each step, on the weights (``sqrt(2η)`` times that of the paper).
        seed: debugging only: no certificate.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range, or other than those of ``learned``.
        MisconfigurationException: see :class:`~erode.callbacks.bases.head_operator.HeadOperator`; also for another n,
            and for weights that ``learned`` does not belong to.

    Source:
        Chien et al. 2024; account by Bok, Su and Altschuler 2024; theory §5.

    Example:
        >>> operator = ProjectedNoisySGD(samples=1000, changed=1, epochs=5, ridge=0.05, radius=5.0, delta=1e-5)
        >>> operator.mechanism.steps, f"{operator.mechanism.sigma:.2e}"
        (310, '1.45e-06')
    """

    card = OperatorCard(
        guarantee="certified",
        scope="a strongly convex head on a frozen, unexposed encoder",
        paper="Chien et al. 2024 (arXiv 2403.17105), exact account by Bok et al. 2024; theory §5",
        trains_on="a pixel head, on the retain view in cyclic batches",
        needs=("retained data", "unexposed encoder"),
        requests=("pixel", "stream"),
        stores="the features of the training set, while it runs; the record of how it was learnt (a file)",
        costs="one gradient of each image per epoch, no optimiser step",
        evaluations_per_step=0.0,
        technique="certified removal",
        manipulation="model shifting",
        config="unlearn/projected_noisy_sgd.yaml",
        page="projected_noisy_sgd.md",
    )

    def __init__(
        self,
        samples: int,
        changed: int,
        epsilon: float | None = 1.0,
        delta: float = 1e-7,
        epochs: int | Literal["auto"] = 1,
        learned: str | Path | None = None,
        learning_rate: float = 1.0,
        ridge: float = 1e-3,
        batch_size: int = 16,
        radius: float = 50.0,
        anchor: str | Path | None = None,
        sigma: float | None = None,
        seed: int | None = None,
        folder: str | Path | None = None,
    ) -> None:
        if not 1 <= batch_size <= samples or not radius > 0 or changed < 0:
            raise ValueError(
                f"batch_size must be between 1 and samples, changed >= 0 and radius > 0; got batch_size = {batch_size} "
                f"of samples = {samples}, changed = {changed} and radius = {radius}"
            )
        self.samples = samples
        self.changed = changed
        self.epsilon = epsilon
        self.delta = delta
        self.epochs = epochs
        self.learned = learned
        self.learning_rate = learning_rate
        self.ridge = ridge
        self.batch_size = self.objective_batch_size = batch_size
        self.radius = radius
        self.sigma = sigma
        self._process = None if learned is None else Process.load(learned)
        self._images: list[int] = []
        self._ended_in = ""
        super().__init__(self._mechanism(), Target(epsilon=epsilon, delta=delta), anchor, seed, folder)

    def effort(self, batches: int | None) -> Effort:
        """One pass per epoch."""
        epochs = self.mechanism.steps / (self.samples // self.batch_size)
        return Effort(0.0, epochs, epochs)

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse weights that the process did not end in."""
        super().prepare(trainer, module)
        if self._process is not None and self._process.weights != head_digest(head_of(module, type(self).__name__)):
            raise MisconfigurationException(
                f"{self.learned} belongs to other weights: nothing is known of how these were learnt; give the file "
                "written with them, or learned=None, which counts the whole ball"
            )

    def move(self, objective: RidgeObjective, start: Tensor) -> Tensor | None:
        """The last iterate."""
        self.check_samples(objective, self.samples)
        self._check_changed(objective.fingerprints)
        self._images = objective.fingerprints
        batches = self.samples // self.batch_size
        return noisy_sgd(
            objective.batch_gradient, start, batches=batches, epochs=self.mechanism.steps // batches,
            learning_rate=self.learning_rate, radius=self.radius, add_noise=self.add_noise,
        )  # fmt: skip

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the process, and note the head that it ends in."""
        super().on_train_start(trainer, pl_module)
        self._ended_in = head_digest(head_of(pl_module, type(self).__name__))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release, and say where the process stands for the next request, if it still stands there."""
        super().on_train_end(trainer, pl_module)
        if not self.released or not trainer.is_global_zero:
            return
        # A step counts even where it moved nothing: whether it did depends on the data, and so would the next noise.
        stepped = trainer.global_step > self._record["first_step"]
        if stepped or head_digest(head_of(pl_module, type(self).__name__)) != self._ended_in:
            rank_zero_warn(
                "the head was trained on after its noise, so it is not where the process of projected noisy SGD ended: "
                f"the certificate stands, but no {FILE} is written to {self._release_to}. Give the next request "
                "learned=None, which counts the whole ball, or leave out min_steps and min_epochs"
            )
            return
        mechanism = self.mechanism
        assert isinstance(mechanism, NoisySGDMechanism)
        Process(
            learning_rate=self.learning_rate, ridge=self.ridge, samples=self.samples, batch_size=self.batch_size,
            radius=self.radius, sigma=mechanism.sigma, carried=mechanism.left(),
            epochs=mechanism.trained_epochs + mechanism.steps // mechanism.batches, weights=self._ended_in,
            images=self._images,
        ).save(self._release_to)  # fmt: skip

    def _mechanism(self) -> NoisySGDMechanism:
        shared: dict[str, Any] = {
            "reference": "retrained",
            "learning_rate": self.learning_rate,
            "ridge": self.ridge,
            "batches": self.samples // self.batch_size,
            "batch_size": self.batch_size,
        }
        whole_ball: dict[str, Any] = {"changed": 0, "trained_epochs": 0, "start": 2 * self.radius, "carried": 0.0}
        choices = [whole_ball]
        if self._process is not None:
            self._check_process(self._process)
            carried = self._process.carried + _STORED * self.radius
            known = {"trained_epochs": self._process.epochs, "start": 0.0, "carried": carried}
            choices.append({"changed": self.changed, **known})
        trials = [NoisySGDMechanism(**shared, **choice, steps=1, sigma=1.0) for choice in choices]
        nearest = min(range(len(choices)), key=lambda index: trials[index].initial_distance())
        constants = {**shared, **choices[nearest]}
        batches = self.samples // self.batch_size
        if self.epochs != "auto":
            return NoisySGDMechanism.from_target(
                self.epsilon, self.delta, self.sigma, steps=self.epochs * batches, **constants
            )
        if self.epsilon is None or self.sigma is None:
            raise ValueError("epochs='auto' needs epsilon and sigma; or give a number of epochs")
        epochs = pnsgd_epochs(
            self.epsilon, self.delta, distance=trials[nearest].initial_distance(), learning_rate=self.learning_rate,
            ridge=self.ridge, batches=batches, sigma=self.sigma,
        )  # fmt: skip
        return NoisySGDMechanism.from_target(None, self.delta, self.sigma, steps=epochs * batches, **constants)

    def _check_changed(self, images: list[int]) -> None:
        """Count what the loader serves otherwise than the process learnt it: the account rests on that number."""
        if self._process is None:
            return
        pairs = zip(images, self._process.images, strict=True) if len(images) == len(self._process.images) else ()
        changed = sum(now != then for now, then in pairs) if pairs else len(images)
        if changed > self.changed:
            raise MisconfigurationException(
                f"ProjectedNoisySGD was given changed = {self.changed}, but {changed} of {len(images)} images or their "
                f"labels are not those that {self.learned} was learnt from, at their places; give changed={changed}, "
                "and serve the images in the same order"
            )

    def _check_process(self, process: Process) -> None:
        names = ("learning_rate", "ridge", "samples", "batch_size", "radius")
        other = [name for name in names if getattr(process, name) != getattr(self, name)]
        if other:
            raise ValueError(
                f"{self.learned} was made with another {' and '.join(other)}; the account holds for one process, so "
                "give those of the file"
            )
