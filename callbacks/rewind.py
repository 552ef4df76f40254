"""Exact unlearning in the time of loading a file: go back to weights that were never exposed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ..lightning_state import callbacks_of, datamodule_of
from ..masks import ForgetSplit, View
from ..operator_card import OperatorCard
from ..requests import ForgetRequest, Found, RequestedAtoms, find_unexposed
from ..requests.ledger import CHECKPOINT_KEY, FILE_NAME, Exposure, Ledger, Level
from .bases.operator import UnlearningOperator
from .batches.atoms import AtomReader, ServedAtoms, source_of
from .batches.recorder import Recorder, check_strategy, episode_of, tensors_in, tensors_of
from .batches.served import split_of
from .exposure_ledger import ledger_in
from .guards.optimizers import Before, build_optimizers
from .guards.refusals import refuse_memories
from .retrain import EXACT_ASSUMPTIONS


class Rewind(UnlearningOperator):
    """Restore the last weights that a forget request does not touch, then train freely on retained data.

    The ledgers in a folder of checkpoints say which weights were never exposed to the request; the record names the
    chosen file, its digest, and why. The weights are restored bit for bit, and nothing else: optimiser and schedulers
    start anew. A training batch with an atom of the request is refused, and so is a validation batch. For
    the restored weights alone, without a training step, there is :func:`erode.requests.rewind` (``erode rewind``).

    Guarantee: exact (ε = 0, δ = 0): no forget atom took part in the released weights. That holds for adaptive requests
    too, but a *distribution* equal to retraining only for requests that do not depend on weights released before,
    as the chosen checkpoint keeps its initialisation and order of draws. Stores the checkpoints with
    their ledgers, costs loading one. Source: theory §2, §6.

    Args:
        checkpoints: folder with ledgers, searched with its sub-folders.
        request: a split or its file, or image ids, see :class:`~erode.requests.ForgetRequest`; None = the split of the
            DataModule.
        atoms: for image ids: what to take back of each (image = everything).
        batch_atoms: for loaders of someone else's, see :class:`~erode.callbacks.batches.atoms.AtomReader`.
        unrecorded: ids of the request that neither a ledger in ``checkpoints`` nor the split of the DataModule names,
            by your word as they should; others are refused as misspelt, and so are all if no ledger names an image of
            that split. ``all`` = any may.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: if the request names nothing, or by other than strings.
        MisconfigurationException: before the first step, if no checkpoint is eligible, nothing knows an image of the
            request, or the retain view would serve what has to be forgotten; for a checkpoint of a run with another
            request; at a batch that holds such an atom.

    Example:
        >>> Rewind("runs/fit-0", request=["scan 3"]).card.guarantee
        'exact'
    """

    card = OperatorCard(
        guarantee="exact",
        paper="rewinding by an exposure ledger; theory §6",
        trains_on="retained data, from the last unexposed checkpoint",
        needs=("retained data", "checkpoints with ledgers"),
        requests=("item", "pixel", "stream"),
        stores="checkpoints, each with its ledger (files)",
        costs="loading one file, then one gradient evaluation per step of as much training as you like",
        technique="data partitioning",
        manipulation="model replacement",
        config="unlearn/rewind.yaml",
        page="rewind.md",
    )
    view = View.RETAIN

    def __init__(
        self,
        checkpoints: str | Path,
        request: str | Path | list[str] | None = None,
        atoms: RequestedAtoms = "image",
        batch_atoms: ServedAtoms | None = None,
        unrecorded: list[str] | Literal["all"] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(folder)
        self.checkpoints = checkpoints
        self.request = request
        self.atoms = atoms
        self.batch_atoms = batch_atoms
        self.unrecorded = unrecorded
        self._reader = AtomReader(batch_atoms)
        self._asked = None if request is None else ForgetRequest.of(request, atoms)
        self._wanted: ForgetRequest | None = self._asked
        self._found: Found | None = None
        self._loaded: Ledger | None = None
        self._recorder: Recorder | None = None
        self._read_early: list[Exposure] = []
        self._release: Ledger | None = None

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse a request that nothing in the folder answers, and data that would teach it again."""
        check_strategy(trainer, module)
        refuse_memories(callbacks_of(trainer))
        split = split_of(trainer)
        self._wanted = self._asked or _of_split(split)
        if split is not None:
            self._check_served(self._wanted, split)
        if self._resumed:
            return
        known = () if split is None else (*split.fine, *split.coarse)
        try:
            self._found = find_unexposed(
                self.checkpoints, self._wanted, tensors_of(module), known=known, unrecorded=self.unrecorded or ()
            )
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Restore the weights, on every process those of process 0's file."""
        assert self._found is not None
        chosen = trainer.strategy.broadcast(self._found.ledger.weights)
        if chosen != self._found.ledger.weights:
            raise MisconfigurationException(
                f"the processes found different checkpoints in {self.checkpoints}; give a folder that all of them see"
            )
        module.load_state_dict(self._found.state)
        self._found.ledger.check_weights(tensors_of(module), self._found.path)  # the file may have changed meanwhile
        self._keep_statistics()
        self._record.update(self._found.proof)
        self._record["restored_weights"] = self._found.ledger.weights
        saved = module.state_dict().keys()
        self._record["kept_buffers"] = [name for name, _ in module.named_buffers() if name not in saved]
        build_optimizers(trainer, Before.of(trainer))
        self._begin_account(trainer, module, self._found.ledger)
        self._found = Found(self._found.path, self._found.ledger, {}, self._found.proof)

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the checkpoint's weights and its ledger, if that is a run for this very request."""
        assert self._loaded is not None
        assert self._wanted is not None
        if self._record.get("request_digest") != self._wanted.digest:
            raise MisconfigurationException(
                f"{trainer.ckpt_path} comes from a run with another request, {self._record.get('request')}; this one "
                f"asks for {self._wanted.describe()}. Resume with the request of the run that was cut short (did its "
                "file change since?), or start anew"
            )
        why = self._loaded.why_exposed(self._wanted.limits)
        if why is not None:
            raise MisconfigurationException(
                f"the weights of {trainer.ckpt_path} were exposed to the request: {why}; start anew from "
                f"{self.checkpoints}"
            )
        self._keep_statistics()
        self._begin_account(trainer, module, self._loaded)

    def lineage(self, module: LightningModule) -> Ledger | None:
        """The chosen checkpoint's."""
        return self._loaded if self._resumed or self._found is None else self._found.ledger

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """State the guarantee, and on what it rests, once the ledger of these very weights proves it.

        Raises:
            MisconfigurationException: if it does not; then nothing is released.
        """
        assert self._recorder is not None
        assert self._wanted is not None
        self._release = self._recorder.ledger(tensors_of(module))
        why = self._release.why_exposed(self._wanted.limits)
        if why is not None:
            raise MisconfigurationException(
                f"nothing is released: by its ledger the run ends in weights that were exposed to the request: {why}; "
                f"start anew from {self.checkpoints}, and let nothing but training change what the module holds"
            )
        return {"epsilon": 0.0, "delta": 0.0, "ledger": FILE_NAME, "assumptions": list(EXACT_ASSUMPTIONS)}

    # Order of a run ------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Refuse batches with atoms of the request, count the others."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._count(trainer, pl_module, batch, training=True)

    def on_read_beside(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Refuse atoms of the request in what something reads beside the batches, too; count the rest."""
        super().on_read_beside(trainer, module, batch)
        exposure = self._reader(batch, datamodule_of(trainer))
        if self._recorder is None:  # a callback ahead of this one reads before the request is known
            self._read_early.append(exposure)
            return
        self._refuse(exposure, "training")
        self._recorder.read_beside(exposure)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Validation steers the run, so it must not hold such atoms either."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._count(trainer, pl_module, batch, training=False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the ledger of the weights of this moment into the checkpoint."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._recorder is not None:
            checkpoint[CHECKPOINT_KEY] = self._recorder.ledger(tensors_in(checkpoint["state_dict"])).text

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the ledger of the checkpoint."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._loaded = ledger_in(checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release weights and record, and the ledger beside them."""
        super().on_train_end(trainer, pl_module)
        if self._release is not None and self.released and trainer.is_global_zero:
            self._release.save(self.release_folder / FILE_NAME)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the account of an earlier run, which may have broken off."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._recorder = self._release = None
            self._read_early = []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the account."""
        super().teardown(trainer, pl_module, stage)
        self._recorder = self._found = self._loaded = self._release = None
        self._read_early = []

    def _count(self, trainer: Trainer, module: LightningModule, batch: Any, training: bool) -> None:
        assert self._recorder is not None
        exposure = self._reader(batch, datamodule_of(trainer), training)
        self._refuse(exposure, "training" if training else "validation")
        self._recorder.before_batch(module, exposure, training)

    def _begin_account(self, trainer: Trainer, module: LightningModule, history: Ledger) -> None:
        self._recorder = Recorder(history, module, episode_of(trainer, source_of(self._reader)))
        for exposure in self._read_early:
            self._refuse(exposure, "training")
            self._recorder.read_beside(exposure)

    def _refuse(self, exposure: Exposure, loader: str) -> None:
        assert self._wanted is not None
        why = exposure.why_exposed(self._wanted.limits)
        if why is not None:
            raise MisconfigurationException(
                f"the {loader} loader serves what has to be forgotten ({why}); leave these images or labels out of it"
            )

    def _check_served(self, request: ForgetRequest, split: ForgetSplit) -> None:
        """What the retain view serves is known before the first batch."""
        levels = {**dict.fromkeys(split.coarse, Level.OUTSIDE), **dict.fromkeys(split.fine, Level.FOREGROUND)}
        again = sorted(name for name, limit in request.limits.items() if levels.get(name, 0) >= limit)
        if again:
            raise MisconfigurationException(
                f"the retain view serves {levels[again[0]].name} of '{again[0]}' and {len(again) - 1} other images of "
                "the request; take them out of the data, or give the split by which they are coarse, or restore "
                "without training: erode rewind"
            )

    def _keep_statistics(self) -> None:
        """Running statistics of weights that were never exposed hold nothing to forget."""
        if self._statistics is not None:
            self._statistics.give_back()
            self._statistics = None
            self._record["reset_buffers"] = []


def _of_split(split: ForgetSplit | Sequence[str] | None) -> ForgetRequest:
    if split is None:
        raise MisconfigurationException(
            "nothing says what to forget: give request= a split.json or image ids, or fit with a DataModule that has a "
            "split"
        )
    return ForgetRequest.of(split)
