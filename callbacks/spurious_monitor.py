"""Spurious information through unlearning: measured at every validation, tabled and drawn."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..files import write_atomically
from ..lightning_state import callbacks_of, run_folder
from ..metrics import GlobalSpuriousInformation, SegmentationDice, SpuriousLeakage
from ..operator_card import OperatorCard
from ..pictures import Panel, curves_figure, save_figure
from .batches.entries import Key, class_map, entry
from .batches.prediction import Weights, initial_weights, predict

Row = dict[str, float | int | str]
"""One measurement: ``step``, ``seconds``, ``weights`` (original or current) and the values."""

WEIGHTS: tuple[Literal["original", "current"], ...] = ("original", "current")
SPURIOUS = ("s_global", "leakage", "gap")
DICE = ("dice_lesion", "dice_class")
NOTE = "S_global is 0 for empty masks too: its fall means forgetting only if the gap falls and Dice does not."


class SpuriousInformationMonitor(Callback):
    """Measure at every validation what a model reads off artefacts, beside what it still gets right.

    Works with any module whose forward maps images to logits, and any validation loader with fine masks; it
    runs its own forward pass, so it needs nothing from ``validation_step``. The first validation that sees
    the whole validation set also measures the *original* weights, those the module held when the run was set
    up: before an operator touched them. With ``num_sanity_val_steps=-1`` (recommended) this happens before
    the first step, and the weights an operator starts from are measured too; otherwise at the first
    validation. Only the first validation loader is measured.

    Logs ``spurious/s_global`` [nats per image], ``spurious/leakage`` and ``spurious/gap`` (any class, rates),
    ``spurious/dice_lesion`` and ``spurious/dice_class``, never one without the others (theory §7.2), and
    leaves ``spurious_information.csv`` and ``spurious_information.png`` in the folder of the run.

    Checkpoints carry the table, so that a resumed run goes on with it; but not beside an operator that promises
    something: what was measured of the original weights, or before all noise, must not leave with those after it. Such
    a run goes on with the file in its folder, where there is one.

    States are sums over processes. Lightning's own distributed sampler repeats images to fill the last batch;
    they count once only if ``counted_key`` says which they are, as our DataModules do.

    Args:
        num_classes: K, background included.
        image_key: where a batch keeps images ``[B, C, *spatial]``: a key, or a position in a tuple.
        fine_key: where it keeps fine masks, integer ``[B, *spatial]`` or ``[B, 1, *spatial]``.
        artefact_key: where it keeps artefact maps, shaped alike (0 = none, 255 = not annotated); None = there
            are none, and only Dice is measured.
        counted_key: where it keeps bool ``[B]``, False = copy that must not count; all images count where a
            batch has no such entry.

    Raises:
        MisconfigurationException: at the first validation batch, naming the entry that is missing, or if
            forward does not return logits.

    Example:
        >>> SpuriousInformationMonitor(2, image_key=0, fine_key=1, artefact_key=None).names
        ('dice_lesion', 'dice_class')
    """

    def __init__(
        self,
        num_classes: int,
        image_key: Key = "image",
        fine_key: Key = "mask",
        artefact_key: Key | None = "artefact",
        counted_key: Key = "counted",
    ) -> None:
        self.image_key = image_key
        self.fine_key = fine_key
        self.artefact_key = artefact_key
        self.counted_key = counted_key
        self.names = DICE if artefact_key is None else (*SPURIOUS, *DICE)
        self.rows: list[Row] = []
        self._original: Weights | None = None
        self._measures = {weights: _Measures(num_classes, artefact_key is not None) for weights in WEIGHTS}
        self._folder = Path()
        self._promised = self._resumed = False
        self._went_on_at = 0
        self._started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the original weights until they are measured; operators change them only later."""
        if stage == "fit":
            self.rows, self._resumed = [], False
            self._promised = any(_promises(callback) for callback in callbacks_of(trainer))
            self._original = initial_weights(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._folder = run_folder(trainer)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where a resumed run goes on; its step is known from here."""
        self._went_on_at = trainer.global_step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same, without a sanity check."""
        self._went_on_at = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from empty tables, on the module's device."""
        for measures in self._measures.values():
            measures.to(pl_module.device)
            measures.reset()
        if self._original is not None:
            self._original = {name: tensor.to(pl_module.device) for name, tensor in self._original.items()}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        if dataloader_idx > 0 or not _covers_all(trainer):
            return
        image = entry(batch, self.image_key, "image_key")
        mask = class_map(entry(batch, self.fine_key, "fine_key"), image)
        artefact = None
        if self.artefact_key is not None:
            artefact = class_map(entry(batch, self.artefact_key, "artefact_key (None = Dice only)"), image)
        counted = self._counted(batch)
        self._measures["current"].update(predict(trainer, pl_module, image), mask, artefact, counted)
        if self._original is not None:
            prediction = predict(trainer, pl_module, image, self._original)
            self._measures["original"].update(prediction, mask, artefact, counted)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Table and log what was measured."""
        if not _covers_all(trainer):
            return
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting and self._resumed and not self.rows:
            self.rows = self._left_by_the_first_part(trainer.global_step)
        if fitting and self._original is not None:
            self._add(0, "original")
            self._original = None
        values = self._measures["current"].compute()
        if fitting:
            self._add(trainer.global_step, "current", values)
        if not trainer.sanity_checking:
            for name, value in values.items():
                pl_module.log(f"spurious/{name}", value, sync_dist=True)
        if fitting and trainer.is_global_zero:
            write_atomically(self._folder / "spurious_information.csv", self._write)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves."""
        if not self.rows:
            rank_zero_warn("no validation covered the validation set: there is no spurious information to draw")
            return
        if self.rows[-1]["step"] != trainer.global_step:
            rank_zero_warn(
                f"the last validation was at step {self.rows[-1]['step']}, but the run ended at step "
                f"{trainer.global_step}: the last weights are unmeasured; let val_check_interval divide it"
            )
        if trainer.is_global_zero:
            save_figure(curves_figure(self._panels(), NOTE), self._folder / "spurious_information.png")

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, so that a resumed run goes on with the same table; none where a promise would cover them."""
        return {"rows": [] if self._promised else self.rows, "measured": self._original is None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the table of a run that was cut short, its original weights measured already."""
        self.rows, self._resumed = [] if self._promised else list(state_dict["rows"]), True
        if state_dict["rows"] or state_dict.get("measured", False):
            self._original = None

    def _add(
        self, step: int, weights: Literal["original", "current"], values: Mapping[str, float] | None = None
    ) -> None:
        seconds = 0.0 if weights == "original" else round(time.monotonic() - self._started, 3)
        values = self._measures[weights].compute() if values is None else values
        self.rows.append({"step": step, "seconds": seconds, "weights": weights, **values})

    def _counted(self, batch: Any) -> Tensor | None:
        try:
            counted: Tensor = batch[self.counted_key]
        except (KeyError, IndexError, TypeError):
            return None
        return counted

    def _write(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", "seconds", "weights", *self.names])
            writer.writeheader()
            writer.writerows(self.rows)

    def _left_by_the_first_part(self, step: int) -> list[Row]:
        """Rows of the file in the folder up to where the run goes on, and before a step that is measured again."""
        path = self._folder / "spurious_information.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != ["step", "seconds", "weights", *self.names]:
                return []
            numbers = ("seconds", *self.names)
            rows = [{**row, "step": int(row["step"]), **{name: float(row[name]) for name in numbers}} for row in reader]
        upto = min(self._went_on_at, step - 1)
        return [row for row in rows if int(row["step"]) <= upto or row["weights"] == "original"]

    def _panels(self) -> list[Panel]:
        panels = [("overlap with the fine mask", "Dice", {"lesion": "dice_lesion", "class mean": "dice_class"})]
        if self.artefact_key is not None:
            panels = [
                ("spurious information", "S_global [nats per image]", {"S_global": "s_global"}),
                (
                    "lesion called on artefacts",
                    "share of background pixels",
                    {"leakage": "leakage", "gap": "gap"},
                ),
                *panels,
            ]
        now = [row for row in self.rows if row["weights"] == "current"]
        steps = [float(row["step"]) for row in now]
        original = next((row for row in self.rows if row["weights"] == "original"), {})
        return [
            Panel(
                title,
                unit,
                {label: (steps, [float(row[name]) for row in now]) for label, name in curves.items()},
                {label: float(original[name]) for label, name in curves.items() if name in original},
            )
            for title, unit, curves in panels
        ]


class _Measures(nn.Module):
    """The tables of one set of weights."""

    def __init__(self, num_classes: int, artefacts: bool) -> None:
        super().__init__()
        self.dice = SegmentationDice(num_classes)
        self.leakage = SpuriousLeakage(num_classes) if artefacts else None
        self.information = GlobalSpuriousInformation(num_classes) if artefacts else None

    def update(self, prediction: Tensor, mask: Tensor, artefact: Tensor | None, counted: Tensor | None) -> None:
        self.dice.update(prediction, mask, counted=counted)
        if self.leakage is not None and self.information is not None and artefact is not None:
            self.leakage.update(prediction, mask, artefact, counted=counted)
            self.information.update(prediction, mask, artefact, counted=counted)

    def compute(self) -> dict[str, float]:
        """Values by name; every process has to ask."""
        values: dict[str, Tensor] = {}
        if self.leakage is not None and self.information is not None:
            leakage = self.leakage.compute()
            values = {"s_global": self.information.compute()}
            values |= {"leakage": leakage["leak_any"], "gap": leakage["gap_any"]}
        dice = self.dice.compute()
        values |= {"dice_lesion": dice["lesion"], "dice_class": dice["class_mean"]}
        return {name: float(value) for name, value in values.items()}

    def reset(self) -> None:
        for metric in (self.dice, self.leakage, self.information):
            if metric is not None:
                metric.reset()


def _covers_all(trainer: Trainer) -> bool:
    """Whether this validation sees the whole (first) validation loader: the sanity check often does not."""
    return not trainer.sanity_checking or trainer.num_sanity_val_batches[0] == trainer.num_val_batches[0]


def _promises(callback: object) -> bool:
    """Whether it is an operator that releases something exact or certified."""
    card = getattr(callback, "card", None)
    return isinstance(card, OperatorCard) and card.guarantee != "approximate"
