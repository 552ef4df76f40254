"""What every unlearning operator is: a callback that prepares, guards, records and releases one run."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any, ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.nn import Module
from torch.nn.parameter import Parameter, is_lazy
from torch.optim import Optimizer

from ...files import write_json
from ...masks import View
from ...operators import Effort, OperatorCard
from ...requests import Ledger
from ...weights import weights_digest
from ..batches.served import split_of
from ..guards.forget_guard import ForgetGuard
from ..guards.fresh_start import check_known, check_saved_as_held
from ..guards.prepared_weights import PreparedWeights
from ..guards.refusals import check_averaging, check_callbacks, check_loop
from .early_scores import forget_earlier_runs
from .release import RECORD_NAME, divergence, holds_release, infinite_buffers, release
from .running_statistics import RunningStatistics

_WEIGHTS_KEY = "erode_weights"
"""Of a checkpoint: the digest of all weights, which those that a resumed run starts from must have."""


class UnlearningOperator(Callback):
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

    card: ClassVar[OperatorCard]
    """What it promises, needs, keeps and costs; a subclass without one is refused, unless it says ``base=True``."""
    asks_for_forget: ClassVar[bool] = False
    """Whether its batches are ``{"retain": batch, "forget": batch}``; only then may forget atoms be served at all."""
    view: View
    """Retained labels it trains on."""

    def __init_subclass__(cls, *, base: bool = False, **keywords: Any) -> None:
        """Refuse an operator that does not say what it promises; ``base=True`` for a common part of several.

        Raises:
            TypeError: without a card.
        """
        super().__init_subclass__(**keywords)
        if not base and not isinstance(getattr(cls, "card", None), OperatorCard):
            raise TypeError(
                f"{cls.__name__} has no card: give the class card = OperatorCard(...), of erode.operators, "
                "which says what it promises, needs, keeps and costs"
            )

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
        self._parameters: dict[str, Parameter] = {}
        self._never_finite: set[str] = set()
        self._prepared = PreparedWeights(type(self).__name__)
        self._saved_weights: str | None = None
        self._batches_before = 0
        self._original_digest = ""

    # Slots ---------------------------------------------------------------------------------------------------

    @classmethod
    def refuses(cls, module: Module) -> str | None:
        """Why no settings would let it work on a module, with a remedy; None = some may. ``erode plan`` asks too."""
        return None

    def check_module(self, module: Module) -> None:
        """Refuse a module that these settings do not fit, whatever its weights. ``erode plan`` asks too."""
        if (why := self.refuses(module)) is not None:
            raise MisconfigurationException(why)

    def effort(self, batches: int | None) -> Effort:
        """What a run computes beside its steps, for data of so many batches (None = unknown). ``erode plan`` asks."""
        return Effort()

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse, with a remedy, what this operator cannot work with."""

    def remember(self, trainer: Trainer, module: LightningModule) -> None:
        """Copy what is needed of the original model, while its running statistics still stand."""

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Change the weights before the first step."""

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Take up a run from a checkpoint, whose weights the module holds; as a new run unless overridden."""
        self.prepare(trainer, module)

    def learns_retained(self, trainer: Trainer) -> bool:
        """Whether the coming batch goes through the network as retained data, so that running statistics follow."""
        return True

    def shortfall(self) -> str | None:
        """Why the weights must not be released although training ended; None = release them."""
        return None

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What the operator adds to the record after the last step."""
        return {}

    def put_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Undo what the run changed of module and data for its own time, at its end or where it broke off."""
        if self._view_before is not None:
            _datamodule(trainer).serve(self._view_before)
            self._view_before = None
        if self._statistics is not None:
            self._statistics.give_back()
        self._prepared.stop()
        self._guard.stop()

    def note_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Note the weights that training has to start from; for those that change them later than ``on_fit_start``."""
        if self._promises:
            self._prepared.note(trainer, module)

    def lineage(self, module: LightningModule) -> Ledger | None:
        """Ledger of the weights that :meth:`prepare` left, if it replaced all; None = it changed those it found."""
        return None

    @property
    def release_folder(self) -> Path:
        """Where the last run's files stand."""
        return self._release_to

    # Order of a run ------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run; ask a DataModule of ours for the labels this operator trains on."""
        if stage != "fit":
            return
        check_callbacks(_callbacks(trainer), type(self).__name__)
        self._record, self._resumed, self.finished, self.released = {}, False, False, False
        self._prepared.stop()
        self._saved_weights = None
        self._batches_before = 0
        self._guard = ForgetGuard(self)
        data = _datamodule(trainer)
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
        # Every process asks, and asks here: Lightning broadcasts log_dir, so one that asked alone would wait for ever.
        folder = self._folder or Path(trainer.log_dir or trainer.default_root_dir) / "unlearned"
        if holds_release(folder):
            raise MisconfigurationException(
                f"{folder} already holds an unlearning run, and nothing is overwritten; "
                f"give {type(self).__name__}(folder=...) or the Trainer's default_root_dir another place"
            )
        self._release_to = folder
        lazy = [name for name, parameter in pl_module.named_parameters() if is_lazy(parameter)]
        if lazy:
            raise MisconfigurationException(f"{lazy[0]} has no shape yet; pass one batch through the module before fit")
        if trainer.ckpt_path is not None and not self._resumed:
            # Lightning would restore its optimiser state after us, and that was computed on the forget set.
            raise MisconfigurationException(
                f"{trainer.ckpt_path} is no checkpoint of a {type(self).__name__} run, and ckpt_path only resumes one; "
                "start from its weights alone: erode unlearn --init_from, or erode.weights.load_weights before fit"
            )
        check_loop(pl_module, type(self).__name__)
        if self._promises:
            check_known(trainer, pl_module, type(self).__name__)
        self.check_module(pl_module)
        self.check(trainer, pl_module)
        check_averaging(_callbacks(trainer), self)
        self._guard.watch(trainer)
        self._never_finite = infinite_buffers(pl_module)
        self._started = time.monotonic()
        self._parameters = dict(pl_module.named_parameters())
        self._statistics = RunningStatistics(pl_module)
        identity = self._identity(trainer)
        if self._resumed:
            changed = [key for key, value in identity.items() if self._record.get(key) != value]
            if changed:
                raise MisconfigurationException(
                    f"{trainer.ckpt_path} comes from a run with another {' and '.join(changed)}; "
                    "resume with the settings and the split of the run that was cut short, or start anew"
                )
            if self._promises and self._saved_weights != weights_digest(pl_module):
                raise MisconfigurationException(
                    f"the module does not hold the weights that {trainer.ckpt_path} was saved with: the file lacks "
                    "some of them, or something else was loaded since; save and load all weights, or start anew"
                )
            self._statistics.batches = self._batches_before
            self.resume(trainer, pl_module)
            self.note_weights(trainer, pl_module)
            return
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

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Refuse batches with forget atoms where there may be none; a CUDA device tells a batch later."""
        self._prepared.check_first_batch(pl_module)
        if self._statistics is not None and self.learns_retained(trainer):
            self._statistics.before_batch()
        self._guard.see(batch)
        if trainer.global_step == self._record.get("first_step"):
            self._guard.settle()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Refuse weights that something else wrote since the step before."""
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
        finally:
            self.put_back(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release weights, split and record."""
        self._guard.settle()
        self._prepared.check(pl_module)
        self._check_parameters(pl_module)
        if self._promises:
            check_saved_as_held(pl_module)
        self.finished = True
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning declares it nowhere
            return
        why = self.shortfall() or divergence(pl_module, self._never_finite)
        if why is not None:
            self._write_incomplete(trainer, why)
            return
        finished = self.finish(trainer, pl_module)
        self.released = not trainer.interrupted
        if trainer.interrupted or not trainer.is_global_zero:
            return
        seconds = time.monotonic() - self._started
        per_step = self.card.evaluations_per_step
        release(self._release_to, trainer, pl_module, self._record, finished, per_step, seconds)
        rank_zero_info(f"{type(self).__name__}: released into {self._release_to}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put back what was changed for the run, and end it."""
        self.put_back(trainer, pl_module)
        self._parameters = {}
        if self._statistics is not None:
            self._batches_before = self._statistics.batches  # a checkpoint may still be saved
        self._statistics = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save nothing that the run would not release."""
        self._guard.settle()
        self._check_parameters(pl_module)
        checkpoint[_WEIGHTS_KEY] = weights_digest(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note which weights a run that goes on has to start from."""
        self._saved_weights = checkpoint.get(_WEIGHTS_KEY)

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
            write_json(self._release_to / RECORD_NAME, {**self._record, "completed": False, "why": why})

    def _check_parameters(self, module: LightningModule) -> None:
        """Refuse other parameters than those that the optimiser was given: training went past them."""
        now = dict(module.named_parameters())
        strange = [name for name, own in self._parameters.items() if now.get(name) is not own]
        if strange or (self._parameters and now.keys() != self._parameters.keys()):
            raise MisconfigurationException(
                f"{(strange or ['a parameter'])[0]} was replaced since the run began, so what the module holds is not "
                "what was trained; let no callback or hook put other tensors into the module's place"
            )

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
        names = [name for name in inspect.signature(type(self).__init__).parameters if name not in ("self", "folder")]
        return {name: _plain(getattr(self, name)) for name in names}


def operators_of(trainer: Trainer) -> list[UnlearningOperator]:
    """The unlearning operators among a Trainer's callbacks."""
    return [callback for callback in _callbacks(trainer) if isinstance(callback, UnlearningOperator)]


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning declares it nowhere
    return callbacks


def _datamodule(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
