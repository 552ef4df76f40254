"""Keeps an exposure ledger during any training, so that forgetting can be a matter of loading a file (theory §6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from ..lightning_state import callbacks_of, datamodule_of, run_folder, runs_fast
from ..requests.ledger import CHECKPOINT_KEY, FILE_NAME, Exposure, Ledger, read_ledger
from ..weights import state_digest
from .bases.operator import operators_of
from .batches.atoms import AtomReader, ServedAtoms, source_of
from .batches.recorder import Recorder, check_strategy, episode_of, tensors_in, tensors_of
from .guards.earlier_fits import check_first_fit
from .guards.hidden_state import check_known, check_registered
from .guards.optimizers import check_unused
from .guards.prepared_weights import copies_of, parameters_digest
from .guards.refusals import refuse_memories
from .guards.reset import reset_parameters, unresettable

INITIALISATION, UNEXPOSED = "initialisation", "unexposed"
"""Histories that need no file."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class ExposureLedger(Callback):
    """Record which atoms the weights have been exposed to, in every checkpoint and beside the released weights.

    Watches and changes nothing, but for ``history="initialisation"``, which resets the weights. Counted is what batches
    really hold, before the module sees them, in training and (as it steers schedules and the choice of checkpoints) in
    validation. Weights of unknown history count as exposed to everything.

    Exact as far as batches are what reaches the weights, and what is announced beside them, as modules of ours do that
    read the whole training set (:func:`erode.whole_set.announce`): no ledger can see a file that a module reads on its
    own. Weights that changed in a run without a batch or an announcement count as exposed to everything.

    Args:
        history: of the weights the module holds when the run begins. ``initialisation``: every layer is re-initialised
            by its own ``reset_parameters`` before the run, so that there is nothing to believe. ``unexposed``: your
            word that they never saw an atom (e.g. public pretraining). A file: its ledger, which must be that of these
            very weights. None: unknown, unless an operator of the same run (Rewind, Retrain) replaces them.
            A history speaks of weights alone, so the optimiser has to be new. A resumed run goes on with the ledger of
            its checkpoint, whose optimiser saw nothing else.
        atoms: for loaders of someone else's, see :class:`~erode.callbacks.batches.atoms.AtomReader`.
        folder: where ``ledger.json`` goes at the end; None = the folder of the run. Another goes beside what an
            operator released.

    Raises:
        MisconfigurationException: before the first step: for weights that are not those of the given ledger, layers
            that cannot be re-initialised, what else remembers weights from before (an optimiser that took steps, an
            average, a network that the module does not know), sharded strategies, or a ledger that would be
            overwritten; at the first batch if nothing says which atoms it holds.

    Source: theory §1, §4.

    Example:
        >>> ExposureLedger(history="initialisation").history
        'initialisation'
    """

    def __init__(
        self,
        history: str | Path | None = None,
        atoms: ServedAtoms | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.history = history
        self.folder = None if folder is None else Path(folder)
        self._reader = AtomReader(atoms)
        self._start: Ledger | None = None
        self._parameters = ""
        self._resumed: Ledger | None = None
        self._recorder: Recorder | None = None
        self._read_early: Exposure | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out what the weights were exposed to, before anything else touches them."""
        if stage != "fit":
            return
        self._resumed, self._recorder, self._read_early = None, None, None
        self._start = self._history_of(trainer, pl_module)
        self._parameters = _parameters_digest(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what could not be recorded or written, and what remembers weights that the history does not cover."""
        check_strategy(trainer, pl_module)
        assert self._start is not None
        if not self._start.exposure.unknown and trainer.ckpt_path is None:
            check_known(trainer, pl_module, f"ExposureLedger('{self.history}')")
            check_first_fit(trainer, f"ExposureLedger('{self.history}')")
            refuse_memories(callbacks_of(trainer), before=self)
            check_unused(trainer)
        folder = self.folder or run_folder(trainer)
        if (folder / FILE_NAME).exists() and trainer.ckpt_path is None:
            raise MisconfigurationException(
                f"{folder} already holds a ledger, and nothing is overwritten; give ExposureLedger(folder=...) or the "
                "Trainer's default_root_dir another place"
            )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the ledger of the checkpoint; one without counts as exposed to everything."""
        self._resumed = ledger_in(checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the account from the weights that training starts from."""
        history = self._history_now(trainer, pl_module)
        if not history.exposure.unknown and trainer.ckpt_path is None:  # data are there by now
            is_clean = copies_of(parameters_digest(pl_module))
            check_registered(trainer, pl_module, f"ExposureLedger('{self.history}')", is_clean)
        self._recorder = Recorder(history, pl_module, episode_of(trainer, source_of(self._reader)))
        if self._read_early is not None:
            self._recorder.read_beside(self._read_early)
        if history.exposure.unknown:
            rank_zero_warn(
                "the history of these weights is unknown, so the ledger counts them as exposed to everything; give "
                "ExposureLedger(history='initialisation') for a fresh start, or the ledger.json of the weights"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count a batch."""
        assert self._recorder is not None
        exposure = self._reader(batch, datamodule_of(trainer))
        self._recorder.before_batch(pl_module, exposure)

    def on_read_beside(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Count what something reads of the training set beside the batches, also before the account begins."""
        exposure = self._reader(batch, datamodule_of(trainer))
        if self._recorder is not None:
            self._recorder.read_beside(exposure)
        else:
            self._read_early = exposure | (self._read_early or Exposure())

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count what steers the training; the sanity check before it does not."""
        if self._recorder is not None:
            exposure = self._reader(batch, datamodule_of(trainer), training=False)
            self._recorder.before_batch(pl_module, exposure, training=False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the ledger of the weights of this moment into the checkpoint."""
        if self._recorder is not None:
            checkpoint[CHECKPOINT_KEY] = self._recorder.ledger(tensors_in(checkpoint["state_dict"])).text

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the ledger of the weights the run ends with."""
        folder = self.folder or run_folder(trainer)
        if self._recorder is None or runs_fast(trainer):
            return
        ledger = self._recorder.ledger(tensors_of(pl_module))
        if trainer.is_global_zero:
            ledger.save(folder / FILE_NAME)
            for operator in operators_of(trainer):
                if operator.released:
                    ledger.save(operator.release_folder / FILE_NAME)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the account."""
        self._recorder = None

    def _history_of(self, trainer: Trainer, module: LightningModule) -> Ledger:
        if self.history is None:
            return Ledger.unknown(tensors_of(module))
        if self.history == UNEXPOSED:
            return Ledger.unexposed(tensors_of(module), "never exposed, by the owner's word")
        if self.history == INITIALISATION:
            _initialise(module)
            return Ledger.unexposed(tensors_of(module), "initialisation")
        ledger = _read(Path(self.history))
        if ledger.weights != state_digest(tensors_of(module)) and trainer.ckpt_path is None:
            raise MisconfigurationException(
                f"{self.history} belongs to other weights than the module holds; start from its weights "
                "(erode fit --init_from, or erode.weights.load_weights before fit)"
            )
        return ledger

    def _history_now(self, trainer: Trainer, module: LightningModule) -> Ledger:
        """The history of the weights that training starts from, unless something else has written them since."""
        assert self._start is not None
        state = tensors_of(module)
        replaced = self._resumed or _lineage(trainer)
        if replaced is not None:
            return replaced if replaced.weights == state_digest(state) else Ledger.unknown(state)
        start = self._start
        if _parameters_digest(module) != self._parameters or start.exposures.keys() != state.keys():
            return Ledger.unknown(state)
        # Statistics that an operator has reset hold less than they did; what the ledger says of them stays true.
        return Ledger(state_digest(state), start.exposures, start.steps, start.episodes)


def ledger_in(checkpoint: dict[str, Any]) -> Ledger:
    """The ledger of a checkpoint that was loaded; without one it counts as exposed to everything.

    Raises:
        ValueError: if the ledger was edited, or is that of other weights.
    """
    state = tensors_in(checkpoint["state_dict"])
    if CHECKPOINT_KEY not in checkpoint:
        return Ledger.unknown(state)
    ledger = Ledger.parse(checkpoint[CHECKPOINT_KEY], "the checkpoint")
    ledger.check_weights(state, "the checkpoint")
    return ledger


def _lineage(trainer: Trainer) -> Ledger | None:
    """The ledger of the weights that an operator of this run put into the module's place."""
    for operator in operators_of(trainer):
        lineage = operator.lineage(trainer.lightning_module)
        if lineage is not None:
            return lineage
    return None


def _initialise(module: nn.Module) -> None:
    stuck = unresettable(module)
    if stuck:
        raise MisconfigurationException(
            f"history='initialisation' cannot re-initialise {', '.join(stuck)}: no reset_parameters() of a layer "
            "reaches them. Let the layer's reset_parameters() set them, or say history='unexposed' of weights that "
            "never saw an atom"
        )
    with torch.no_grad():
        reset_parameters(module)


def _read(path: Path) -> Ledger:
    try:
        return read_ledger(path)
    except (FileNotFoundError, ValueError) as error:
        raise MisconfigurationException(f"history: {error}") from error


def _parameters_digest(module: nn.Module) -> str:
    return state_digest({k: v for k, v in tensors_of(module).items() if not k.endswith(_STATISTICS)})
