"""What every unlearning operator is: a callback that prepares, guards, records and releases one run."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from ...certificates import RECORD
from ...files import write_json
from ...lightning_state import callbacks_of, datamodule_of, run_folder, runs_fast
from ...masks import View
from ...weights import read_state, weights_digest
from ..batches.served import split_of
from ..guards.earlier_fits import check_first_fit
from ..guards.forget_guard import ForgetGuard
from ..guards.hidden_state import check_known, check_saved_as_held
from ..guards.prepared_weights import PreparedWeights
from ..guards.ranks import other_ranks, together
from ..guards.refusals import check_averaging, check_callbacks, check_loop, check_shapes, check_takes_steps, no_step
from ..guards.standing import Standing, check_continuation
from .early_scores import forget_earlier_runs
from .operator_hooks import OperatorSlots
from .release import divergence, holds_release, infinite_buffers, release
from .running_statistics import RunningStatistics

WEIGHTS_KEY = "erode_weights"
"""Of a checkpoint: the digest of all weights, which those that a resumed run starts from must have; absent: none."""


class UnlearningOperator(OperatorSlots, base=True):
    """Base of all operators. One run of ``Trainer.fit`` with one operator unlearns once.

    The order of a run is fixed here; subclasses fill the slots :meth:`check_module`, :meth:`check`, :meth:`remember`,
    :meth:`prepare`, :meth:`resume`, :meth:`shortfall` and :meth:`finish`:

    1. ``setup``: a DataModule of ours is told to serve :attr:`view`, beside the forget set where the operator
       :attr:`asks_for_forget`; any other keeps serving what its owner chose, which must be retained data.
    2. ``on_fit_start``: :meth:`check_module` and :meth:`check` refuse what cannot work, :meth:`remember` copies what
       it needs of the original model, running statistics of normalisation layers are reset (they were computed on the
       forget set, theory §4), :meth:`prepare` changes the weights. A run that goes on from a checkpoint is not reset
       again; :meth:`resume` takes the place of :meth:`remember` and :meth:`prepare`.
    3. Each batch: one that still marks pixels as FORGET is refused, outside of the entry ``forget`` of an operator
       that :attr:`asks_for_forget`.
    4. ``on_train_end``, if the run was not cut short and has no :meth:`shortfall`: rank 0 writes
       ``weights.safetensors``, ``split.json`` (where the DataModule knows its split) and ``unlearning.json`` into
       the folder. Otherwise only ``unlearning.json``, which says so.

    Args:
        folder: where the three files go; None = ``unlearned`` within the folder of the run's logger.

    Raises:
        MisconfigurationException: before the first step, if the folder already holds the record of a completed
            run, if two operators meet in one run, or if a subclass refuses the set-up.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._release_to = Path()
        self._record: dict[str, Any] = {}
        self._resumed = False
        self._view_before: View | None = None
        self.finished = False
        """Whether the last run came to its end, with or without a release."""
        self.released = False
        """Whether it released weights."""
        self._started = 0.0
        self._statistics: RunningStatistics | None = None
        self._guard = ForgetGuard(self)
        self._standing = Standing(self._promises)
        self._never_finite: set[str] = set()
        self._prepared = PreparedWeights(type(self).__name__)
        self._saved_weights: str | None = None
        self._batches_before = 0
        self._original_digest = ""

    def put_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Undo what the run changed of module and data for its own time, at its end or where it broke off."""
        if self._view_before is not None:
            datamodule_of(trainer).serve(self._view_before)
            self._view_before = None
        if self._statistics is not None:
            self._statistics.give_back()
        self._prepared.stop()
        self._guard.stop()

    def note_weights(self, trainer: Trainer, module: LightningModule, resumed: bool = False) -> None:
        """Note the weights that training has to start from; for those that change them later than ``on_fit_start``."""
        if self._promises:
            self._prepared.note(trainer, module, self.renewed_buffers(module), resumed)

    def anchor_weights(self) -> list[Tensor]:
        """Those of an anchor that is a file; they never saw the forget set."""
        anchor = Path(str(getattr(self, "anchor", "")))
        return list(read_state(anchor).values()) if anchor.is_file() else []

    @property
    def release_folder(self) -> Path:
        """Where the last run's files stand."""
        return self._release_to

    # Order of a run ------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run; ask a DataModule of ours for the labels this operator trains on."""
        if stage != "fit":
            return
        check_callbacks(callbacks_of(trainer), type(self).__name__)
        self._record, self._resumed, self.finished, self.released = {}, False, False, False
        self._prepared.stop()
        self._standing = Standing(self._promises)
        self._saved_weights = None
        self._batches_before = 0
        if self._promises:  # a checkpoint that the run goes on from replaces them
            self._prepared.note_original(pl_module)
        self._guard = ForgetGuard(self)
        data = datamodule_of(trainer)
        if hasattr(data, "serve"):
            self._view_before = data.view
            if self.asks_for_forget:
                data.serve(self.view, forget=True)
            else:
                data.serve(self.view)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check, note the start, reset what carries the forget set, prepare."""
        operators = operators_of(trainer)
        if len(operators) > 1:
            names = ", ".join(type(operator).__name__ for operator in operators)
            raise MisconfigurationException(f"{names} in one run: keep one operator per fit")
        folder = self._folder or run_folder(trainer) / "unlearned"
        if holds_release(folder):
            raise MisconfigurationException(
                f"{folder} already holds an unlearning run, and nothing is overwritten; "
                f"give {type(self).__name__}(folder=...) or the Trainer's default_root_dir another place"
            )
        self._release_to = folder
        check_shapes(pl_module)
        check_takes_steps(trainer, type(self).__name__)
        if trainer.ckpt_path is not None and not self._resumed:
            # Lightning would restore its optimiser state after us, and that was computed on the forget set.
            raise MisconfigurationException(
                f"{trainer.ckpt_path} is no checkpoint of a {type(self).__name__} run, and ckpt_path only resumes one; "
                "start from its weights alone: erode unlearn --init_from, or erode.weights.load_weights before fit"
            )
        check_loop(pl_module, type(self).__name__)
        if self._promises:
            check_known(trainer, pl_module, type(self).__name__)
            if not self._resumed:
                check_first_fit(trainer, type(self).__name__)
        self.check_module(pl_module)
        self.check(trainer, pl_module)
        check_averaging(callbacks_of(trainer), self)
        self._guard.watch(trainer)
        self._never_finite = infinite_buffers(pl_module)
        self._started = time.monotonic()
        self._standing.watch(pl_module)
        self._statistics = RunningStatistics(pl_module)
        identity = self._identity(trainer)
        if self._resumed:
            changed = [key for key, value in identity.items() if self._record.get(key) != value]
            held = weights_digest(pl_module) if self._promises else None
            check_continuation(trainer.ckpt_path, type(self).__name__, changed, self._saved_weights, held)
            self._statistics.batches = self._batches_before
            self.resume(trainer, pl_module)
            self._prepared.excuse(self.anchor_weights())
            self.note_weights(trainer, pl_module, resumed=True)
            self._standing.prepared()
            return
        if self._promises:
            self._prepared.note_original(pl_module)
        self.remember(trainer, pl_module)
        self._original_digest = weights_digest(pl_module)
        # Of a run that promises, its hash would let anyone test a guess of the original weights.
        start = {} if self._promises else {"initial_weights": self._original_digest}
        self._record = {
            **identity,
            "guarantee": self.card.guarantee,
            "paper": self.card.paper,
            "first_step": trainer.global_step,
            **start,
            "reset_buffers": self._statistics.reset(),
        }
        forget_earlier_runs(trainer)
        self.prepare(trainer, pl_module)
        self.note_weights(trainer, pl_module)
        self._standing.prepared()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Refuse batches with forget atoms where there may be none; a CUDA device tells a batch later."""
        with self._standing.checking():
            self._prepared.check_batch(trainer, pl_module)
        if self._statistics is not None and self.learns_retained(trainer):
            self._statistics.before_batch()
        self._guard.see(batch)
        if trainer.global_step == self._record.get("first_step"):
            self._guard.settle()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Refuse weights that something else wrote since the step before."""
        with self._standing.checking():
            self._prepared.check_step()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Refuse forget atoms here too, where a run promises: scores stop runs, and choose among their weights."""
        if self._promises and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._guard.see_validation(batch)

    def on_read_beside(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Refuse forget atoms also in what something reads of the training set beside the batches."""
        self._guard.see_now(batch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say in the record that nothing was released, unless it was already; Lightning calls no ``teardown``."""
        try:
            if self._record and not holds_release(self._release_to):
                self._write_incomplete(trainer, f"{type(exception).__name__}: {exception}")
            self._standing.break_off(pl_module, lambda: self._check_own(pl_module))
        finally:
            self.put_back(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release weights, split and record."""
        with self._standing.checking():
            together(trainer, lambda: self._check_own(pl_module))
        self.finished = True
        self._standing.end(pl_module)
        if runs_fast(trainer):
            return
        why = self.shortfall() or divergence(pl_module, self._never_finite)
        elsewhere = other_ranks(trainer, why is not None)
        why = why or elsewhere
        if why is not None:
            self._write_incomplete(trainer, why)
            return
        finished = together(trainer, lambda: self.finish(trainer, pl_module))
        self.released = not trainer.interrupted
        if trainer.interrupted or not trainer.is_global_zero:
            return
        seconds = time.monotonic() - self._started
        per_step = self.card.evaluations_per_step
        release(self._release_to, trainer, pl_module, self._record, finished, per_step, seconds)
        rank_zero_info(f"{type(self).__name__}: released into {self._release_to}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where Lightning skipped all training: nothing was released, and silence would pass for success."""
        if not self.finished:
            raise no_step(type(self).__name__)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put back what was changed for the run, and end it."""
        self.put_back(trainer, pl_module)
        self._standing.close()
        if self._statistics is not None:
            self._batches_before = self._statistics.batches  # a checkpoint may still be saved
        self._statistics = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save nothing that the run would not release."""
        with self._standing.checking():
            if trainer.state.status == TrainerStatus.RUNNING:
                together(trainer, lambda: self._check_own(pl_module))
            else:  # where one process broke off, others do not wait for it
                self._check_own(pl_module)
        digest = self._standing.digest(pl_module, self._saved_weights if self._resumed else None)
        if digest is not None:
            checkpoint[WEIGHTS_KEY] = digest

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note which weights a run that goes on has to start from."""
        self._saved_weights = checkpoint.get(WEIGHTS_KEY)

    def state_dict(self) -> dict[str, Any]:
        """The record so far, plain data."""
        self._guard.settle()
        batches = self._batches_before if self._statistics is None else self._statistics.batches
        return {"record": self._record, "statistics_batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the record of a run that was cut short."""
        self._record, self._resumed = dict(state_dict["record"]), True
        self._batches_before = state_dict["statistics_batches"]

    @property
    def _promises(self) -> bool:
        """Whether what it releases is exact or certified."""
        return self.card.guarantee != "approximate"

    def _write_incomplete(self, trainer: Trainer, why: str) -> None:
        if trainer.is_global_zero:
            write_json(self._release_to / RECORD, {**self._record, "completed": False, "why": why})

    def _check_own(self, module: LightningModule) -> None:
        """Refuse weights that are not what training on retained data made of them; once released they are anybody's."""
        self._guard.settle()
        self._standing.check_parameters(module)
        if self.finished:
            return
        self._prepared.check(module)
        if self._promises:
            check_saved_as_held(module)

    def _identity(self, trainer: Trainer) -> dict[str, Any]:
        """What may not change between a run and its continuation."""
        split = split_of(trainer)
        return {
            "operator": type(self).__name__,
            "settings": self._settings(),
            "view": self.view.value,
            "split": None if split is None else split.digest,
        }

    def _settings(self) -> dict[str, Any]:
        """The constructor's arguments, which subclasses keep as attributes of the same name."""
        return {name: _plain(getattr(self, name)) for name in self._setting_names()}

    def _given_so_far(self) -> dict[str, Any]:
        """Those settings that are kept already, while it is being made."""
        return {name: _plain(getattr(self, name)) for name in self._setting_names() if hasattr(self, name)}

    def _setting_names(self) -> list[str]:
        return [name for name in inspect.signature(type(self).__init__).parameters if name not in ("self", "folder")]


def operators_of(trainer: Trainer) -> list[UnlearningOperator]:
    """The unlearning operators among a Trainer's callbacks."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, UnlearningOperator)]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
