"""SCRUB: a student that leaves its teacher on forget atoms and stays with it on retained ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..distillation import divergence_from_teacher
from ..lightning_state import runs_fast
from ..masks import View
from ..operator_card import OperatorCard
from .bases.own_loss import OwnLoss, first_head, label_loss, logits_of
from .bases.phase_state import PhaseState
from .bases.teacher import Teacher
from .batches.atom_batches import BatchKeys, mean_over


class Scrub(OwnLoss):
    """Replace the training step by pixel-wise SCRUB (theory §6), with the original model as the teacher.

    The run alternates. A *min-phase* descends on ``α · KL_T + γ · ℓ`` over retained atoms, a *max-phase* ascends on
    ``KL_T(teacher ‖ student)`` over forget atoms. There are ``msteps`` max-phases, each with a min-phase before and
    after it, and then min-phases follow to the end. (The paper begins with a max-phase. At the teacher the divergence
    has no gradient but rounding errors, and optimisers that divide by the size of past gradients make full steps of
    them.) ℓ is the module's own loss, where it has a method ``loss_of(output, batch)`` and batches are those of
    :mod:`erode.batch`, else the cross-entropy. Phases are counted in optimiser steps, or in epochs (of the longer of
    the two loaders). The loss of a max-phase is unbounded, so keep it short: in the paper it is a pass over a forget
    set of a few batches, and a min-phase one over all that is retained. One optimiser, the user's, takes all steps;
    what it gathers of gradients in a max-phase is dropped at its end, for they are of another kind. On pixels whose
    label was corrected (the ring of a finely annotated image) KL_T is left out of the min-phase: the teacher says
    there what is to be forgotten.

    A DataModule of ours serves the two kinds side by side; elsewhere give ``fit`` loaders ``{"retain": ...,
    "forget": ...}``. Running statistics follow the retained images alone. A run that would end within or right
    after a max-phase is refused, and releases nothing.

    Guarantee: none (approximate). Stores the teacher in bfloat16, in its checkpoints too, and during a max-phase a
    second state of the optimiser. A step costs one gradient evaluation and one forward pass.

    Args:
        alpha: α ≥ 0, weight of staying with the teacher. Published: 0.5, or 0.001 for large networks; a teacher that
            learnt a shortcut teaches it on retained images too, so less was better here.
        gamma: γ ≥ 0, weight of the retained labels.
        temperature: T > 0 of both divergences.
        msteps: max-phases; 0 = distillation on retained atoms alone.
        max_phase: optimiser steps of a max-phase; None, as the next = an epoch.
        min_phase: optimiser steps of a min-phase.
        only_fine: retain the finely annotated images alone, instead of all that the retain view offers.
        image_key: key (dict) or index (tuple) of the image in either batch.
        fine_key: the same for the retained label, integer ``[B, *spatial]``, in the retained batch.
        coarse_key: the same for the original label, integer ``[B, *spatial]``, in both batches.
        role_key: the same for the role of each pixel; None = batches have none: all pixels of the retained batch are
            retained, all coarse-foreground pixels of the forget batch are to be forgotten.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: for manual optimisation, for TorchScript layers, for a run that would end in a
            max-phase or before the first one, and for batches without these entries.

    Source: Kurmanji et al. 2023, §3 and algorithm 1.
    """

    card = OperatorCard(
        guarantee="approximate",
        paper="SCRUB (Kurmanji et al. 2023, arXiv 2302.09880), pixel-wise; theory §6",
        trains_on="the retain view (`only_fine`: fine images) and the forget set, beside a teacher",
        needs=("retained data", "forget set"),
        requests=("pixel",),
        stores="half a copy of the weights: the teacher in bfloat16; in a max-phase a second optimiser state",
        costs="one gradient evaluation and one forward pass per step",
        evaluations_per_step=4 / 3,
        technique="knowledge adaptation",
        manipulation="model shifting",
        config="unlearn/scrub.yaml",
        page="scrub.md",
    )
    asks_for_forget = True
    view = View.RETAIN

    def __init__(
        self,
        alpha: float = 0.01,
        gamma: float = 1.0,
        temperature: float = 4.0,
        msteps: int = 3,
        max_phase: int | None = 1,
        min_phase: int | None = 20,
        only_fine: bool = False,
        image_key: str | int = "image",
        fine_key: str | int = "mask",
        coarse_key: str | int = "coarse",
        role_key: str | int | None = "role",
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(folder)
        if alpha < 0 or gamma < 0 or alpha + gamma == 0:
            raise ValueError(f"alpha and gamma must not be negative, nor both 0; got {alpha} and {gamma}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}; 4 is a usual choice")
        if msteps < 0:
            raise ValueError(f"msteps counts max-phases, got {msteps}; 3 is a usual choice")
        lengths = [length for length in (max_phase, min_phase) if length is not None]
        if len(lengths) == 1 or any(length < 1 for length in lengths):
            raise ValueError(
                f"max_phase and min_phase are both at least 1 step, or both None = an epoch; "
                f"got {max_phase} and {min_phase}"
            )
        self.alpha = alpha
        self.gamma = gamma
        self.temperature = temperature
        self.msteps = msteps
        self.max_phase = max_phase
        self.min_phase = min_phase
        self.only_fine = only_fine
        self.image_key = image_key
        self.fine_key = fine_key
        self.coarse_key = coarse_key
        self.role_key = role_key
        if only_fine:
            self.view = View.FINE_SUBSET
        self._keys = BatchKeys(image_key, fine_key, coarse_key, role_key)
        self._teacher: Teacher | None = None
        self._stored: dict[str, Tensor] | None = None
        self._phase = -1
        self._max_state = PhaseState()

    # Order of a run ------------------------------------------------------------------------------------------

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse manual optimisation, and a run that would stop before what it pushed away is repaired."""
        super().check(trainer, module)
        if scripted := [name for name, layer in module.named_modules() if isinstance(layer, torch.jit.ScriptModule)]:
            raise MisconfigurationException(
                f"{scripted[0]} is TorchScript, which computes with no weights but its own, so it cannot teach "
                f"{type(self).__name__}; give the module the layer that was scripted"
            )
        trainer.fit_loop.setup_data()  # nothing knows the length of an epoch before
        planned, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
        if math.isinf(planned) or planned < 1 or runs_fast(trainer):
            return
        epoch = batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
        last = self._phase_at(int(planned) - 1, int((planned - 1) // epoch))
        phases = f"{self.min_phase} and {self.max_phase}" if self.min_phase else f"an epoch ({epoch})"
        if self._pushes(last):
            raise MisconfigurationException(
                f"{int(planned)} steps, in min- and max-phases of {phases}, would end in a max-phase of "
                f"{type(self).__name__}, before the min-phase that repairs it; train longer, or choose shorter phases"
            )
        if self.msteps and last == 0:
            raise MisconfigurationException(
                f"{int(planned)} steps, in min- and max-phases of {phases}, would end before the first max-phase of "
                f"{type(self).__name__}, so nothing would be pushed away; train longer, choose a shorter min_phase, "
                "or say msteps=0"
            )

    def remember(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the original model as the teacher."""
        self._teacher = Teacher(module)
        self._phase = -1

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Take over the training step."""
        self._record["first_epoch"] = trainer.current_epoch
        super().prepare(trainer, module)

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Go on with the teacher of the checkpoint: the weights are no longer the original ones."""
        self._teacher, self._stored = Teacher(module, self._stored), None
        super().prepare(trainer, module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the phase; a max-phase has a state of the optimiser for itself."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._phase = self._phase_now(trainer)
        if self._pushes(self._phase):
            self._max_state.enter(trainer.optimizers[0])
        else:
            self._max_state.end()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between batches the optimiser has the state of min-phases: for checkpoints, and whoever looks."""
        self._max_state.leave()

    def learns_retained(self, trainer: Trainer) -> bool:
        """Only in a min-phase."""
        return not self._pushes(self._phase_now(trainer))

    def loss(self, trainer: Trainer, module: LightningModule, batch: Any) -> tuple[Tensor, int]:
        """Of the phase: ``-KL_T`` over forget atoms, or ``α · KL_T + γ · ℓ`` over retained ones."""
        assert self._teacher is not None
        if self._pushes(self._phase):
            atoms = self._keys.forgotten(batch["forget"])
            with self.statistics_held():
                student = logits_of(module, atoms.image)
            away = divergence_from_teacher(student, self._teacher.logits(module, atoms.image), self.temperature)
            return -mean_over(trainer, away, atoms.where), len(atoms.image)
        atoms = self._keys.retained(batch["retain"])
        output = module(atoms.image)
        student = first_head(output, atoms.image, module)
        near = divergence_from_teacher(student, self._teacher.logits(module, atoms.image), self.temperature)
        kept = atoms.where & ~self._keys.corrected(batch["retain"], atoms)
        labels = label_loss(trainer, module, output, atoms, batch["retain"], self._keys)
        return self.alpha * mean_over(trainer, near, kept) + self.gamma * labels, len(atoms.image)

    def shortfall(self) -> str | None:
        """A run that stopped early may have stopped where nothing was repaired yet."""
        if self._pushes(self._phase):
            return f"the run stopped in max-phase {(self._phase + 1) // 2}, before the min-phase that repairs it"
        return None

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """How many phases there were."""
        return {"phases": self._phase + 1, "max_phases": min(self.msteps, (self._phase + 1) // 2)}

    def put_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Give the optimiser its state back, where a max-phase broke off."""
        super().put_back(trainer, module)
        self._max_state.leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the teacher go."""
        super().teardown(trainer, pl_module, stage)
        self._teacher = None

    def state_dict(self) -> dict[str, Any]:
        """The teacher, the phase and its state of the optimiser, beside the record."""
        teacher = None if self._teacher is None else self._teacher.state()
        own = {"teacher": teacher, "phase": self._phase, "max_state": self._max_state.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the teacher of a run that was cut short."""
        super().load_state_dict(state_dict)
        self._stored, self._phase = state_dict["teacher"], state_dict["phase"]
        self._max_state.load_state_dict(state_dict["max_state"])

    # Phases --------------------------------------------------------------------------------------------------

    def _phase_now(self, trainer: Trainer) -> int:
        step = trainer.global_step - int(self._record["first_step"])
        return self._phase_at(step, trainer.current_epoch - int(self._record["first_epoch"]))

    def _phase_at(self, step: int, epoch: int) -> int:
        if self.max_phase is None or self.min_phase is None:
            return epoch
        if step < self.min_phase:
            return 0
        step -= self.min_phase
        pair = self.max_phase + self.min_phase
        pairs, left = divmod(step, pair)
        if pairs < self.msteps:
            return 1 + 2 * pairs + (left >= self.max_phase)
        return 1 + 2 * self.msteps + (step - self.msteps * pair) // self.min_phase

    def _pushes(self, phase: int) -> bool:
        """Phases 1, 3, 5 … are max-phases until there were ``msteps``."""
        return phase % 2 == 1 and 0 < phase < 2 * self.msteps
