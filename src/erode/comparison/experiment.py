"""One row of a comparison: train or unlearn in one way with one seed, test, and keep what came out."""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from ..audit.forget_atoms import loss_attack
from ..callbacks import ExposureLedger, SpuriousInformationMonitor
from ..datamodules import MaskDataModule, SyntheticDermoscopy
from ..files import parse_json
from ..lightning_modules import QuantisedTraining, SegmentationModule
from ..lightning_modules.fresh import describe_fresh
from ..rows import claim, number, stored
from ..weights import load_weights, save_weights
from .methods import METHODS, Method, MethodName, Task
from .networks import fitting
from .trainer import evaluated, row_trainer

EvaluatedPart = Literal["test", "val"]
Precision = Literal["32-true", "bf16-mixed"]
Factory = Callable[[], SegmentationModule]
"""Makes a fresh module."""

Row = dict[str, Any]
"""What one run gave: method, title, seed, promise and cost, metrics, steps, size, seconds, device, split."""


class Experiment:
    """Rows of one data set, one network and one length of training, kept in a folder and never computed twice.

    Args:
        data: any DataModule of ours; None = the embedded :class:`~erode.datamodules.SyntheticDermoscopy`.
        model: makes a fresh module; None = the default network with the classes, channels and dimensions of the data.
        out: folder for rows, weights and logs.
        steps: gradient steps of each row.
        evaluate_on: the part that the numbers come from.
        accelerator: see Lightning's Trainer.
        precision: see Lightning's Trainer.
        epsilon: ε of certified rows.
        delta: δ of certified rows.
        validations: times that S_global and Dice are measured on the validation part on the way; 0 = never.
        wandb_group: group of the runs in Weights & Biases; None = they are not logged there.
        methods: rows that will be asked for, to find out before the first what an operator refuses.

    Raises:
        ValueError: if ``out`` holds rows of other settings, or a row cannot be certified with these steps, ε and δ.
    """

    def __init__(
        self,
        data: MaskDataModule | None = None,
        model: Factory | None = None,
        out: Path = Path("runs/compare"),
        steps: int = 600,
        evaluate_on: EvaluatedPart = "test",
        accelerator: str = "auto",
        precision: Precision = "32-true",
        epsilon: float = 1.0,
        delta: float = 1e-7,
        validations: int = 0,
        wandb_group: str | None = None,
        methods: Sequence[MethodName] = (),
    ) -> None:
        self.data = data or SyntheticDermoscopy()
        self.data.prepare_data()  # names all files that cannot be used, before one of them is read
        self.model = model or default_model(self.data)
        self.out = out
        self.steps = steps
        self.evaluate_on = evaluate_on
        self.accelerator = accelerator
        self.precision = precision
        self.epsilon = epsilon
        self.delta = delta
        self.validations = validations
        self.wandb_group = wandb_group
        self.settings = settings_of(self.data, self.model, steps, evaluate_on, precision, epsilon, delta, validations)
        self._check(methods)
        claim(out, self.settings, "comparison")

    def _check(self, methods: Sequence[MethodName]) -> None:
        """Make the operator of each row, before the first of them is trained."""
        for name in methods:
            method = METHODS[name]
            if method.operator is None:
                continue
            try:
                needed = getattr(method.operator(self._task(name, seed=0)), "optimizer_steps", 0)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if needed > self._steps_of(method):
                raise ValueError(f"{name} takes {needed} noisy steps, more than the {self.steps} of a row; raise steps")

    def row(self, name: MethodName, seed: int) -> Row:
        """What one method gave with one seed, computed if it was not before."""
        return stored(self.out / "rows" / f"{name}-seed{seed}.json", lambda: self._run(name, seed))

    def weights(self, name: MethodName, seed: int) -> Path:
        """Where the weights of a row are."""
        return weights_of(self.out, name, seed)

    def draw_split(self, seed: int) -> None:
        """Serve the forget/retain split of a seed, unless the data brought their own."""
        if self.data.split_file is None and self.data.split_seed != seed:
            self.data.redraw_split(seed)

    def module(self, name: MethodName, seed: int) -> SegmentationModule:
        """A fresh module of a row, on which its weights fit."""
        make = METHODS[name].module
        return self.model() if make is None else make(self._task(name, seed))

    def _run(self, name: MethodName, seed: int) -> Row:
        method, task = METHODS[name], self._task(name, seed)
        self.draw_split(seed)
        seed_everything(seed, verbose=False)
        shutil.rmtree(task.folder, ignore_errors=True)  # what a run that was cut short left behind; no row, no run
        print(f"seed {seed}: {method.title}", flush=True)
        started = time.monotonic()
        module = self.module(name, seed)
        if method.start is not None:
            load_weights(module, self.weights(method.start, seed))
        steps = self._steps_of(method)
        callbacks: list[Callback] = []
        if method.first is not None:
            callbacks.append(self._learn_first(method, module, name, seed, self.steps - steps))
        if method.operator is not None:
            callbacks.append(method.operator(task))
        self.data.serve(method.view)  # an operator may ask for another view
        one_step_per_epoch: dict[str, Any] = {"max_epochs": -1} if isinstance(module, QuantisedTraining) else {}
        trainer = self._trainer(name, seed, callbacks, steps, **one_step_per_epoch)
        trainer.fit(module, datamodule=self.data)
        seconds = time.monotonic() - started
        if method.operator is None:
            save_weights(module, task.folder / "weights.safetensors")
        metrics = evaluated(trainer, module, self.data, self.evaluate_on)
        self._finish_logs(trainer)
        return {
            "method": name,
            "title": method.title,
            "seed": seed,
            "unlearning": self._unlearning(method, module, task.folder),
            "metrics": {**metrics, **self._membership(module)},
            "steps": trainer.global_step + (0 if method.first is None else self.steps - steps),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "seconds": round(seconds, 1),
            "device": trainer.strategy.root_device.type,
            "split": self.data.split.digest,
        }

    def _steps_of(self, method: Method) -> int:
        return max(1, round(self.steps * method.share))

    def _task(self, name: MethodName, seed: int) -> Task:
        start = METHODS[name].start
        return Task(
            folder=self.weights(name, seed).parent,
            data=self.data,
            steps=self.steps,
            model=self.model,
            start=None if start is None else self.weights(start, seed).parent,
            epsilon=self.epsilon,
            delta=self.delta,
            accelerator=self.accelerator,
        )

    def _learn_first(
        self, method: Method, module: SegmentationModule, name: MethodName, seed: int, steps: int
    ) -> ExposureLedger:
        """Learn the first labels and keep these weights with their ledger; what keeps the ledger from here on."""
        assert method.first is not None
        folder = self.weights(name, seed).parent
        self.data.serve(method.first)
        trainer = self._trainer(name, seed, [ExposureLedger("initialisation", folder=folder / "first")], steps)
        trainer.fit(module, datamodule=self.data)
        self._finish_logs(trainer)
        save_weights(module, folder / "first" / "weights.safetensors")
        return ExposureLedger(folder / "first" / "ledger.json", folder=folder)

    def _trainer(self, name: MethodName, seed: int, callbacks: list[Callback], steps: int, **options: Any) -> Trainer:
        if self.validations:
            callbacks = [*callbacks, SpuriousInformationMonitor(self.data.num_classes)]
            options |= {"val_check_interval": max(1, steps // self.validations), "num_sanity_val_steps": -1}
        loggers: list[Logger] = [CSVLogger(self.out / "logs", name=f"{name}-seed{seed}")]
        if self.wandb_group is not None:
            loggers.append(
                WandbLogger(
                    name=f"{self.out.name}-{name}-seed{seed}",
                    group=self.wandb_group,
                    save_dir=self.out.absolute(),
                    config={"method": name, "seed": seed, **self.settings},
                )
            )
        return row_trainer(
            self.data,
            steps,
            self.out,
            self.accelerator,
            precision=self.precision,
            callbacks=callbacks,
            logger=loggers,
            **options,
        )

    def _finish_logs(self, trainer: Trainer) -> None:
        """The next row is a run of its own."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()

    def _unlearning(self, method: Method, module: SegmentationModule, folder: Path) -> dict[str, Any] | None:
        """What the row promises and cost."""
        if isinstance(module, QuantisedTraining):
            return self._withstood(module)
        return None if method.operator is None else _record(folder)

    def _withstood(self, module: QuantisedTraining) -> dict[str, Any]:
        """Quantised training forgets the masks if its budget covers all images that have them, and only then."""
        removal, asked = module.removal(), len(self.data.split.coarse)
        return {
            "guarantee": "exact" if removal["removals_withstood"] >= asked else "approximate",
            "epsilon": None,
            "delta": None,
            "gradient_evaluations": removal["steps"] * math.ceil(removal["samples"] / self.data.batch_size),
        }

    def _membership(self, module: SegmentationModule) -> dict[str, float | None]:
        """How well the loss tells images with forget atoms from validation images."""
        attack = loss_attack(self.data, module.eval())
        found = (math.nan, math.nan) if attack is None else (attack.auc, attack.tpr)
        return dict(zip(("membership_auc", "membership_tpr"), map(number, found), strict=True))


def default_model(data: MaskDataModule) -> Factory:
    """The default network with the classes, channels and dimensions of the data."""
    return functools.partial(SegmentationModule, **fitting(data))


def settings_of(
    data: MaskDataModule | None,
    model: Factory | None,
    steps: int,
    evaluate_on: EvaluatedPart,
    precision: Precision,
    epsilon: float,
    delta: float,
    validations: int,
) -> dict[str, Any]:
    """All that the rows of an experiment depend on, as plain data; reads all files once and trains nothing.

    Arguments are those of :class:`Experiment`.
    """
    data = data or SyntheticDermoscopy()
    model = model or default_model(data)
    return {
        "data": data.describe(),
        "model": describe_fresh(model),
        "steps": steps,
        "precision": precision,
        "evaluated on": evaluate_on,
        "epsilon": epsilon,
        "delta": delta,
        "validations": validations,
        "torch": torch.__version__,
    }


def weights_of(out: Path, name: str, seed: int) -> Path:
    """Where the weights of a row are, in the folder of an experiment."""
    return out / "weights" / f"{name}-seed{seed}" / "weights.safetensors"


def _record(folder: Path) -> dict[str, Any]:
    """What the operator promises and cost, from the files it left."""
    record = parse_json((folder / "unlearning.json").read_text(encoding="utf-8"))
    if not record["completed"]:
        raise RuntimeError(f"{record['operator']} released nothing: {record['why']}")
    promise = record
    if "certificate" in record:
        promise = parse_json((folder / record["certificate"]).read_text(encoding="utf-8"))["claim"] or {}
    return {
        "guarantee": record["guarantee"],
        "epsilon": promise.get("epsilon"),
        "delta": promise.get("delta"),
        "gradient_evaluations": record["gradient_evaluations"],
    }
