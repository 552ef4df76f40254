"""Relearn time: how many steps until a forgotten set is known again."""

from __future__ import annotations

import math
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from ..files import write_json
from ..lightning_state import run_folder
from ..metrics import RelearnTime, relearn_time


class RelearnTimer(Callback):
    """Stop a run that trains on the forget set again once it knows that set, and record the steps.

    Fit the unlearnt model on the *forget* set, with the coarse masks it once learnt, and give the same set as
    validation data. ``monitor`` is what the module logs in validation on it: a loss, an error, or an accuracy. The
    answer is no finer than the distance between validations: use ``val_check_interval=1``, or a few steps, and
    ``num_sanity_val_steps=-1``, which measures step 0 too (a model that forgot nothing needs no step; a partial
    sanity check is not taken for it). Then the same with a fresh model; `erode.metrics.anamnesis_index` of both
    times is the anamnesis index.

    Leaves ``relearn.json`` in the folder of the run: monitor, threshold, curve, steps and whether the threshold was
    reached. The relearnt weights are an instrument, not a release: no certificate covers them.

    Args:
        monitor: name of the logged value.
        threshold: the value that counts as knowing the set again; see `erode.metrics.recovery_threshold`.
        mode: "min" where small values mean knowing (loss, error), "max" where large ones do.

    Raises:
        ValueError: for another mode, or a threshold that is not finite.
        MisconfigurationException: at the first validation, if ``monitor`` was not logged, naming what was.

    Source: theory §8 (relearn time, anamnesis index).

    Example:
        >>> RelearnTimer("val/forget_loss", threshold=0.1).time is None
        True
    """

    def __init__(self, monitor: str, threshold: float, mode: Literal["min", "max"] = "min") -> None:
        if mode not in ("min", "max") or not math.isfinite(threshold):
            raise ValueError(f"need mode 'min' or 'max' and a finite threshold, got {mode!r} and {threshold}")
        self.monitor = monitor
        self.threshold = threshold
        self.mode = mode
        self.steps: list[int] = []
        self.values: list[float] = []

    @property
    def time(self) -> RelearnTime | None:
        """The relearn time so far; None before the first measurement."""
        return relearn_time(self.steps, self.values, self.threshold, self.mode) if self.steps else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start an empty curve."""
        if stage == "fit":
            self.steps, self.values = [], []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point to the curve, and stop the run on every process once the threshold is met."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if self.monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise MisconfigurationException(
                f"RelearnTimer watches {self.monitor!r}, but validation logged {logged}; set monitor to one of them, "
                "logged with sync_dist=True"
            )
        partial = trainer.sanity_checking and trainer.num_sanity_val_batches != trainer.num_val_batches
        if partial or (self.steps and self.steps[-1] >= trainer.global_step):
            return
        self.steps.append(trainer.global_step)
        # One value for all: processes that logged without sync_dist would stop at different steps.
        self.values.append(float(trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))))
        if self._known():
            trainer.should_stop = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that step 0 is missing, or that the model already knows the set."""
        if not self.steps:
            rank_zero_warn(
                "RelearnTimer did not measure step 0: a model that forgot nothing will look as if it had to "
                "relearn; set num_sanity_val_steps=-1"
            )
        if self._known():
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was found."""
        folder = run_folder(trainer)
        if self.time is None:
            rank_zero_warn("no validation ran, so RelearnTimer measured nothing; give fit a validation loader")
        elif trainer.is_global_zero:
            write_json(folder / "relearn.json", self._record(self.time))

    def state_dict(self) -> dict[str, Any]:
        """The curve so far, so that a resumed run goes on with it."""
        return {"steps": list(self.steps), "values": list(self.values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curve of a run that was cut short."""
        self.steps, self.values = list(state_dict["steps"]), list(state_dict["values"])

    def _known(self) -> bool:
        return self.time is not None and self.time.reached

    def _record(self, time: RelearnTime) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "threshold": self.threshold,
            "mode": self.mode,
            "steps": time.steps,
            "reached": time.reached,
            "curve": [
                {"step": step, "value": value if math.isfinite(value) else None}
                for step, value in zip(self.steps, self.values, strict=True)
            ],
        }
