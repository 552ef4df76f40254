"""What the certified operators share: certified steps inside a normal fit, the account, the certificate (theory §4)."""

from __future__ import annotations

import math
import secrets
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import nn
from torch.optim.lr_scheduler import ConstantLR

from ...accounting import NoisyIteration
from ...certificates import Account, Target
from ...masks import View
from ...mechanisms import BallMechanism
from ...mechanisms.outlook import Outlook, Regime, too_many_pixels
from ..batches.entries import pixels_per_image
from ..guards.anchor_checks import check_distinct, check_history
from ..guards.exposure import INITIALISATION, ZEROS, Anchor, anchor_of, check_unexposed, exposed_parameters
from ..guards.hidden_state import check_registered
from ..guards.optimizers import Before, build_optimizers
from ..guards.ranks import check_ranks_agree
from ..guards.refusals import check_rounding, check_setup, remembers
from ..guards.unexposed_state import UnexposedState
from ..noise.draws import Draw
from ..noise.keyed_noise import KeyedNoise, shared_secret
from ..noise.noisy_sgd import NoisySGD, Vector, project_
from ..noise.rounding import radius_within
from .certified import CertifiedOperator
from .early_scores import NoisyScores


class NoisyPhase(CertifiedOperator, base=True):
    """Base of the certified operators: clip the weights, take the certified steps, hand the run back.

    At fit start the weights move to the ball of C0 around the anchor, and the user's optimiser and schedulers
    make way for :class:`~erode.callbacks.noise.noisy_sgd.NoisySGD` over the exposed parameters. After exactly the
    certified steps ``configure_optimizers`` is asked again, and the rest of the run, the free phase, is the
    user's: any training on retained data keeps the certificate. The user's ``gradient_clip_val`` and
    ``on_before_optimizer_step`` hooks stay active all the time; in the noisy phase they act before the certified
    clip, which makes them harmless.

    Weights are rounded where anything is added to them. All that is clipped is clipped to so much less that distance
    and shift, with rounding, stay within the account (theory §4, "rounding"). Where rounding would take more than half
    of a bound, the run is refused.

    Checkpoints carry the account, so a run that was cut short can go on; it draws a new secret. Those of the noisy
    phase hold less noise than the certificate promises: they must not leave.

    Subclasses fill :meth:`update` and make the :class:`~erode.mechanisms.BallMechanism`.

    Args:
        mechanism: all constants.
        target: what was asked for.
        anchor: θ₀: ``initialisation`` (fresh, by each layer's ``reset_parameters``), ``zeros``, or a file of
            weights that were computed without the forget set.
        exposed: shell patterns of the parameters that training on the forget set could change; None = all that
            require a gradient. All others must equal the anchor's.
        shrink: at the hand-over, pull the weights back towards the anchor by the best linear factor for the noise
            that was added (:meth:`~erode.mechanisms.BallMechanism.shrinkage`), so that noise on many parameters does
            not blow up activations. It is processing of what is certified already, and so free.
        seed: for debugging only: makes the noise reproducible, so that no certificate is issued.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        MisconfigurationException: before the first step, for what cannot be certified; at a step, if something
            else wrote the weights, or if ranks differ.
        FloatingPointError: for a gradient that is not finite.
    """

    mechanism: BallMechanism
    view = View.RETAIN
    keeps_anchor = True
    """Whether :meth:`update` needs θ₀, which costs one copy of the exposed parameters."""
    learning_rate = 0.0
    """γ of the certified steps."""
    alike = False
    """Whether all steps are the same operations with the same constants, nothing but launches on a CUDA device."""
    only_of_weights = False
    """Whether a step must be a function of the current weights, and not of running statistics of steps before."""
    noise_first = False
    """Whether all noise is added before training starts, so that nothing in the run sees weights without it."""

    def __init__(
        self,
        mechanism: BallMechanism,
        target: Target,
        anchor: str | Path,
        exposed: Sequence[str] | None,
        shrink: bool,
        seed: int | None,
        folder: str | Path | None,
    ) -> None:
        super().__init__(mechanism, target, seed, folder)
        self.anchor = anchor
        self.exposed = exposed
        self.shrink = shrink
        self.optimizer_steps = mechanism.steps
        """Optimiser steps of the noisy phase."""
        self._radius = mechanism.radius  # until the anchor tells what rounding takes of it
        self._reach = math.inf
        self._account = NoisyIteration()
        self._taken = 0
        self._handed_back = False
        self._scores: NoisyScores | None = None
        self._pixels_checked = False
        self._noise: KeyedNoise | None = None
        self._optimizer: NoisySGD | None = None
        self._before = Before([], [])
        self._unexposed: UnexposedState | None = None

    @classmethod
    def refuses(cls, module: nn.Module) -> str | None:
        """Also modules that remember what was before the noise, unless that comes first."""
        kept = None if cls.noise_first else remembers(module, cls.__name__)
        return super().refuses(module) or kept

    @abstractmethod
    def update(self, weights: Vector, gradients: Vector, anchor: Vector) -> None:
        """All that a step does to the weights before the noise, in place."""

    def allow_for_rounding(self, anchor: Vector) -> None:
        """Clip to less than what is accounted for, by what rounding can add; a function of anchor and constants alone.

        Raises:
            MisconfigurationException: if rounding could take more than half.
        """
        self._radius = radius_within(self.mechanism.radius, anchor)

    def clip_start(self, weights: Vector, anchor: Vector) -> None:
        """Move the weights, in place, to where the account lets them start."""
        project_(weights, anchor, self._radius)

    # Order of a run ------------------------------------------------------------------------------------------

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse what cannot be certified."""
        check_setup(trainer, module, type(self).__name__, self.optimizer_steps)
        exposed_parameters(module, self.exposed)

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Clip the weights around the anchor, say what will be left of them, and take over the optimiser."""
        self._account, self._taken, self._handed_back = NoisyIteration(), 0, False
        drawn = secrets.randbits(63) if self.seed is None else self.seed
        self._record["anchor_seed"] = trainer.strategy.broadcast(drawn)
        exposed = exposed_parameters(module, self.exposed)
        anchor = anchor_of(module, self.anchor, self._record["anchor_seed"])
        check_unexposed(module, list(exposed.values()), anchor.state)
        if self.anchor not in (INITIALISATION, ZEROS):
            check_history(self.anchor, trainer)
            check_distinct(exposed, anchor.state)
        self._record["anchor_weights"] = anchor.digest
        self._record["mechanism"] = self.mechanism.constants()
        weights, theta_0 = list(exposed.values()), [anchor.state[name] for name in exposed]
        self.allow_for_rounding(theta_0)
        with torch.no_grad():
            self.clip_start(weights, theta_0)
        check_rounding(weights, self.mechanism.sigma)
        self._foretell(sum(weight.numel() for weight in weights))
        self._take_over(trainer, module, exposed, anchor)

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Take over again, if the checkpoint is from the noisy phase, with a new secret."""
        if self._record["mechanism"] != self.mechanism.constants():  # same settings, other calibration
            raise MisconfigurationException(
                f"the checkpoint's account was kept for {self._record['mechanism']}, which differs from "
                f"{self.mechanism.constants()}; resume with the version of erode that wrote it"
            )
        exposed = exposed_parameters(module, self.exposed)
        if self._handed_back:
            self.note_exposed(exposed)
            return
        anchor = self._same_anchor(module)
        self._reset_statistics()
        check_unexposed(module, list(exposed.values()), anchor.state)
        self.allow_for_rounding([anchor.state[name] for name in exposed])
        self._take_over(trainer, module, exposed, anchor)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand back at once where a checkpoint fell between the last certified step and the hand-over."""
        self._hand_back_when_done(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Refuse batches with forget atoms; at the first one, warn of a δ that is large for so many pixels."""
        if self.only_of_weights and self._optimizer is not None:
            self._reset_statistics()  # a layer that reads them in training, frozen or not, would carry the start on
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        pixels = None if self._pixels_checked else pixels_per_image(batch)
        self._pixels_checked = True
        if pixels is not None and (why := too_many_pixels(self.target.delta, pixels)) is not None:
            rank_zero_warn(f"{type(self).__name__}: {why}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the last certified step, hand back."""
        self._hand_back_when_done(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Expect metrics again, in time after the hand-over."""
        if self._scores is not None:
            self._scores.epoch_begins(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores of the weights that were handed over may be saved by."""
        if self._scores is not None and trainer.state.fn == TrainerFn.FITTING:
            self._scores.validated(trainer)

    def put_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Forget the secret; let callbacks be as strict as they were."""
        super().put_back(trainer, module)
        self._noise = None
        if self._scores is not None:
            self._scores.be_strict()
        self._scores = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the certified optimiser, and of what was compared."""
        super().teardown(trainer, pl_module, stage)
        self._optimizer = self._unexposed = None

    def shortfall(self) -> str | None:
        """Until the hand-over is complete, buffers follow weights that lack noise, and ranks may differ."""
        missing = None if self._handed_back else "the last certified step was not yet followed by the hand-over"
        return super().shortfall() or missing

    def account(self) -> Account:
        """The certified steps so far."""
        return Account(steps=self._taken, blocks=self._account.blocks)

    def state_dict(self) -> dict[str, Any]:
        """The account so far, plain data, and never the secret."""
        return {
            **super().state_dict(),
            "steps": self._taken,
            "blocks": [list(block) for block in self._account.blocks],
            "handed_back": self._handed_back,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the account of a run that was cut short."""
        super().load_state_dict(state_dict)
        self._taken = state_dict["steps"]
        self._account = NoisyIteration([(rise, variance, gap) for rise, variance, gap in state_dict["blocks"]])
        self._handed_back = state_dict["handed_back"]

    # The noisy phase -----------------------------------------------------------------------------------------

    def draw(self, weights: Vector) -> Draw:
        """The noise of the step that comes, the same on every rank.

        The sum is rounded once. After the last step that is post-processing of it; before, it is counted with the
        rounding of the step that follows.
        """
        if self._noise is None or self._taken >= self.mechanism.steps:
            raise RuntimeError(f"{type(self).__name__} draws noise {self.mechanism.steps} times, within a fit")
        return self._noise.keyed(weights, self._taken, self.mechanism.sigma)

    def account_step(self) -> None:
        """Account for a step that was taken, its noise and all."""
        self.mechanism.at(self._taken).account_step(self._account)
        self._taken += 1

    def optimizer(
        self, weights: Sequence[nn.Parameter], anchor: Vector, beside: Sequence[nn.Parameter] = ()
    ) -> NoisySGD:
        """That of the certified steps; ``beside`` are the parameters that get no noise."""
        return NoisySGD(
            weights, anchor, self.update, self.draw, self.account_step, self.learning_rate, self._reach, self.alike,
            beside,
        )  # fmt: skip

    def _foretell(self, d: int) -> None:
        """Say what will be left of the trained weights; nothing that is said depends on them."""
        delta = self.target.delta
        epsilon = self.mechanism.epsilon(delta) if self.target.epsilon is None else self.target.epsilon
        outlook = Outlook(operator=type(self).__name__, mechanism=self.mechanism, epsilon=epsilon, delta=delta, d=d)
        say = rank_zero_info if outlook.regime is Regime.SURVIVES else rank_zero_warn
        say(outlook.sentence())
        self._record["outlook"] = {
            "kept_signal": outlook.signal,
            "noise": outlook.noise,
            "ratio": outlook.ratio,
            "in_words": outlook.regime.value,
        }

    def _take_over(
        self, trainer: Trainer, module: LightningModule, exposed: dict[str, nn.Parameter], anchor: Anchor
    ) -> None:
        self.note_exposed(exposed)
        self._prepared.note_noisy_start(trainer, module, exposed, anchor.state)
        self._unexposed = UnexposedState(module, exposed)
        self._noise = KeyedNoise(shared_secret(trainer.strategy.broadcast, self.seed))
        theta_0 = [anchor.state[name] for name in exposed] if self.keeps_anchor else []
        noisy = {id(parameter) for parameter in exposed.values()}
        beside = [parameter for parameter in module.parameters() if id(parameter) not in noisy]
        self._optimizer = self.optimizer(list(exposed.values()), theta_0, beside)
        self._before = Before.of(trainer)
        replaced = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        replaced += [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs]
        trainer.strategy.optimizers = [self._optimizer]
        trainer.strategy.lr_scheduler_configs = [_idle(self._optimizer) for _ in self._before.schedulers]
        rank_zero_info(
            f"{type(self).__name__}: {self.optimizer_steps} certified steps of plain SGD come before "
            f"{', '.join(replaced)}, then built anew"
        )

    def _hand_back_when_done(self, trainer: Trainer) -> None:
        if self._optimizer is None or self._unexposed is None or self._taken < self.mechanism.steps:
            return
        self._optimizer.settle()
        self._reset_statistics()  # those of the noisy phase follow weights that had little noise yet, or none
        self._unexposed.check(trainer.lightning_module)
        # Copied since, of weights without all noise.
        check_registered(trainer, trainer.lightning_module, type(self).__name__)
        check_ranks_agree(trainer, [p for group in self._optimizer.param_groups for p in group["params"]])
        if self.shrink:
            self._shrink(trainer.lightning_module)
        for parameter in trainer.lightning_module.parameters():
            parameter.grad = None  # of weights without noise; a module may not zero them
        # Built anew, not kept: some optimisers copy the weights when they are made, and those were the original ones.
        build_optimizers(trainer, self._before)
        self.note_weights(trainer, trainer.lightning_module)
        self._optimizer, self._noise, self._unexposed, self._before = None, None, None, Before([], [])
        self._handed_back = True
        self._scores = NoisyScores(trainer)
        rank_zero_info(f"{type(self).__name__}: {self._taken} certified steps done; the run is the user's again")

    def _same_anchor(self, module: LightningModule) -> Anchor:
        """The anchor once more: it is computed again rather than kept, which would cost a copy of the weights."""
        anchor = anchor_of(module, self.anchor, self._record["anchor_seed"])
        if anchor.digest != self._record["anchor_weights"]:
            raise MisconfigurationException(
                f"the anchor is not the one that the run began with; give {type(self).__name__}(anchor=...) that one"
            )
        return anchor

    def _shrink(self, module: LightningModule) -> None:
        exposed = exposed_parameters(module, self.exposed)
        factor = self.mechanism.shrinkage(sum(parameter.numel() for parameter in exposed.values()))
        anchor = self._same_anchor(module)
        with torch.no_grad():
            for name, parameter in exposed.items():
                parameter.lerp_(anchor.state[name].to(parameter.device), 1 - factor)
        self._record["shrinkage"] = factor

    def _reset_statistics(self) -> None:
        if self._statistics is not None:
            self._statistics.reset()


def _idle(optimizer: NoisySGD) -> LRSchedulerConfig:
    """A schedule that never moves, for modules that ask ``self.lr_schedulers()`` what the learning rate is."""
    return LRSchedulerConfig(ConstantLR(optimizer, factor=1.0), frequency=sys.maxsize)
