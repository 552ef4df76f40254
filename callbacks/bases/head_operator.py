"""What the certified operators on strongly convex heads share: one computation at train start, no steps (theory §5)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from ...accounting import NoisyIteration
from ...certificates import Account, Target
from ...masks import View
from ...mechanisms import Mechanism
from ...operator_card import Effort
from ...ridge import RidgeHead, RidgeObjective
from ...weights import state_digest
from ..guards.anchor_checks import check_history
from ..guards.exposure import Anchor, anchor_of, check_unexposed
from ..guards.optimizers import Before, build_optimizers
from ..guards.refusals import check_rounding, check_setup
from ..noise.keyed_noise import KeyedNoise, shared_secret
from .certified import CertifiedOperator


class HeadOperator(CertifiedOperator, base=True):
    """Base of the certified operators on a :class:`~erode.lightning_modules.PixelHead`.

    At train start the retained data are read once, :meth:`move` computes the new head with its noise, and the run
    ends without a step (unless the Trainer's ``min_steps`` or ``min_epochs`` ask for some, which then are a free phase
    on retained data). Only the head is exposed; every other value must equal the anchor's. Such a run cannot be
    resumed: it has no checkpoint worth keeping.

    Args:
        mechanism: all constants, ``ridge`` among them.
        target: what was asked for.
        anchor: file of weights of the whole module that were computed without the forget set; only the encoder's
            matter. None = the ``encoder_weights`` of the module.
        seed: for debugging only: no certificate.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        MisconfigurationException: before anything is computed, for what cannot be certified.
    """

    view = View.RETAIN
    objective_batch_size: int | None = None
    """Smallest batch of the objective; None where batches do not matter."""

    passes: ClassVar[tuple[float, float]]
    """Over the features, least and most."""
    fixed_effort: ClassVar[bool] = True
    """Whether the passes over the data are as many for any start; else their number would tell of it: left out."""

    def __init__(
        self,
        mechanism: Mechanism,
        target: Target,
        anchor: str | Path | None,
        seed: int | None,
        folder: str | Path | None,
    ) -> None:
        super().__init__(mechanism, target, seed, folder)
        self.anchor = anchor
        self._account = NoisyIteration()
        self._taken = 0
        self._why_not: str | None = None
        self._moved = False
        self._noise: KeyedNoise | None = None
        self._buffers: dict[str, Tensor] = {}

    @abstractmethod
    def move(self, objective: RidgeObjective, start: Tensor) -> Tensor | None:
        """The new head ``[K, D]`` with its noise, or None with :attr:`_why_not` set."""

    # Order of a run ------------------------------------------------------------------------------------------

    @classmethod
    def refuses(cls, module: nn.Module) -> str | None:
        """Also modules without a strongly convex head."""
        return super().refuses(module) or _no_head(module, cls.__name__)

    def check_module(self, module: nn.Module) -> None:
        """Refuse another ridge than that of the account."""
        super().check_module(module)
        assert isinstance(module, RidgeHead)
        ridge = self._ridge()
        if module.ridge != ridge:
            raise MisconfigurationException(
                f"{type(self).__name__} was given ridge = {ridge}, the module minimises with ridge = {module.ridge}; "
                "the guarantee rests on it, so give the module's"
            )

    def effort(self, batches: int | None) -> Effort:
        """Its passes over the features."""
        return Effort(0.0, *self.passes)

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse what cannot be certified."""
        check_setup(trainer, module, type(self).__name__, 0)
        # The frozen encoder's running statistics are part of it: they are put back after the reset, and then must
        # equal the anchor's.
        self._buffers = {buffer: value.detach().clone() for buffer, value in module.named_buffers()}

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Prove that the forget set reached the head only."""
        self._account, self._taken, self._why_not = NoisyIteration(), 0, None
        self._moved = False
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(self._buffers[name])
        self._record["reset_buffers"] = []
        head = head_of(module, type(self).__name__)
        anchor = self._anchor(trainer, module)
        check_unexposed(module, [head], anchor.state)
        self._record["anchor_weights"] = anchor.digest
        self._record["mechanism"] = self.mechanism.constants()
        self.note_exposed({name: p for name, p in module.named_parameters() if p is head})

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """There is nothing to go on with."""
        raise MisconfigurationException(
            f"{type(self).__name__} takes no steps, so there is nothing to resume; start anew from the trained weights"
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the new head, and end the run."""
        assert isinstance(pl_module, RidgeHead)
        head = pl_module.head
        objective = pl_module.objective(self.objective_batch_size)
        self._noise = KeyedNoise(shared_secret(trainer.strategy.broadcast, self.seed))
        device = objective.batches[0].features.device
        moved = self.move(objective, head.detach().to(device, torch.float64))
        loader: Any = trainer.train_dataloader
        passes = round(objective.read / (loader.batch_size or 1))
        self._record["evaluations_beside_steps"] = passes if self.fixed_effort else None
        self._prepared.stop()  # what writes now is this operator; noted anew below
        if moved is not None:
            with torch.no_grad():
                head.copy_(trainer.strategy.broadcast(moved.cpu()).to(head.device))
            check_rounding([head], self.mechanism.sigma)
            self._moved = True
        # Built anew: some optimisers copy the weights when they are made, and those were the original ones.
        build_optimizers(trainer, Before.of(trainer))
        self.note_weights(trainer, pl_module)
        trainer.should_stop = True

    def put_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Forget the secret."""
        super().put_back(trainer, module)
        self._noise = None
        self._buffers = {}

    def shortfall(self) -> str | None:
        """What :meth:`move` could not reach releases nothing."""
        missing = None if self._moved else "the new head was drawn, but not put in place"
        return self._why_not or super().shortfall() or missing

    def account(self) -> Account:
        """The draws so far."""
        return Account(steps=self._taken, blocks=self._account.blocks)

    def add_noise(self, weights: Tensor) -> Tensor:
        """Weights plus the noise of one draw, the same on every rank; accounted for."""
        if self._noise is None or self._taken >= self.mechanism.steps:
            raise RuntimeError(f"{type(self).__name__} draws noise {self.mechanism.steps} times, within a fit")
        drawn = self._noise.draw([weights], self._taken)[0]
        self.mechanism.account_step(self._account)
        self._taken += 1
        return weights + self.mechanism.sigma * drawn

    def check_samples(self, objective: RidgeObjective, samples: int) -> None:
        """Refuse another number of images than was accounted for."""
        if objective.samples != samples:
            raise MisconfigurationException(
                f"{type(self).__name__} was given samples = {samples}, the loader has {objective.samples} images; the "
                "guarantee rests on it, so give the number of training images"
            )

    def _ridge(self) -> float:
        mechanism: Any = self.mechanism
        return float(mechanism.ridge)

    def _anchor(self, trainer: Trainer, module: LightningModule) -> Anchor:
        if self.anchor is not None:
            check_history(self.anchor, trainer)
            return anchor_of(module, self.anchor, seed=0)
        assert isinstance(module, RidgeHead)
        if (file := getattr(module, "encoder_weights", None)) is not None:
            check_history(file, trainer)
        state = module.unexposed()
        if state is None:
            raise MisconfigurationException(
                f"{type(self).__name__} must show that the encoder never saw the forget set: build the module with "
                "encoder_weights=FILE, or give anchor=FILE, weights of the whole module from before it saw a label"
            )
        return Anchor(state, state_digest(state))


def head_of(module: LightningModule, operator: str) -> nn.Parameter:
    """The head of a module that has a strongly convex one.

    Raises:
        MisconfigurationException: for any other module.
    """
    if not isinstance(module, RidgeHead):
        raise MisconfigurationException(_no_head(module, operator))
    if module.head.dtype not in (torch.float32, torch.float64):
        raise MisconfigurationException(
            f"the head is stored as {module.head.dtype}, whose rounding {operator} does not count; keep it in float32"
        )
    return module.head


def _no_head(module: nn.Module, operator: str) -> str | None:
    """What is wrong with a module that has no strongly convex head; None = it has one."""
    if isinstance(module, RidgeHead):
        return None
    return (
        f"{operator} certifies strongly convex heads only, and {type(module).__name__} has none; use "
        "erode.lightning_modules.PixelHead, or an operator for whole networks such as GradientClipping"
    )
