"""One experiment, every way of getting rid of a dilation artefact: train, unlearn, test, one table."""

from __future__ import annotations

import functools
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import default_collate

from .callbacks import (
    CFk,
    EUk,
    FineTune,
    GradientClipping,
    ModelClipping,
    NegGradPlus,
    NegGradSeg,
    OutputPerturbation,
    Retrain,
    Scrub,
    ScrubRewind,
    UnlearningOperator,
)
from .comparison_report import print_table
from .datamodules import MaskDataModule, SyntheticDermoscopy
from .files import digest_of, write_json
from .lightning_modules import SegmentationModule
from .masks import View
from .pictures import Sample, gallery_figure, save_figure
from .report import report
from .weights import load_weights, save_weights

MethodName = Literal[
    "coarse",
    "retrain_fine",
    "fine_tune",
    "neg_grad",
    "retain_view",
    "oracle",
    "scrub",
    "scrub_r",
    "neg_grad_plus",
    "cf_k",
    "eu_k",
    "gradient_clipping",
    "model_clipping",
    "output_perturbation",
    "same_noise",
]
DEFAULT_METHODS: tuple[MethodName, ...] = (
    "coarse", "retrain_fine", "fine_tune", "neg_grad", "retain_view", "oracle"
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        title: what people read in the table.
        short: what they read above a picture.
        view: labels it trains on, where no operator says so.
        operator: makes the unlearning operator, given the folder it releases into; None = plain training.
        from_coarse: start from the coarse row's weights of the same seed instead of a fresh network.
    """

    title: str
    short: str
    view: View
    operator: Callable[[Path], UnlearningOperator] | None = None
    from_coarse: bool = False


METHODS: dict[MethodName, Method] = {
    "coarse": Method("coarse masks (to unlearn)", "coarse", View.COARSE),
    "retrain_fine": Method(
        "retrain on the fine images",
        "retrained",
        View.FINE_SUBSET,
        lambda folder: Retrain(only_fine=True, folder=folder),
    ),
    "fine_tune": Method(
        "fine-tune", "fine-tuned", View.FINE_SUBSET, lambda folder: FineTune(folder=folder), from_coarse=True
    ),
    "neg_grad": Method(
        "NegGrad-Seg",
        "NegGrad-Seg",
        View.FINE_SUBSET,
        lambda folder: NegGradSeg(folder=folder),
        from_coarse=True,
    ),
    "retain_view": Method("exact: retain view", "retain view", View.RETAIN, lambda folder: Retrain(folder=folder)),
    "oracle": Method("all masks fine (oracle)", "oracle", View.FINE),
    "gradient_clipping": Method(
        "certified: gradient clipping",
        "gradient clipping",
        View.RETAIN,
        lambda folder: GradientClipping(folder=folder),
        from_coarse=True,
    ),
    "model_clipping": Method(
        "certified: model clipping",
        "model clipping",
        View.RETAIN,
        lambda folder: ModelClipping(folder=folder),
        from_coarse=True,
    ),
    "output_perturbation": Method(
        "certified: output perturbation",
        "output perturbation",
        View.RETAIN,
        lambda folder: OutputPerturbation(folder=folder),
        from_coarse=True,
    ),
    "same_noise": Method(
        "control: gradient clipping, no trained start",
        "same noise",
        View.RETAIN,
        lambda folder: GradientClipping(folder=folder),
    ),
    "scrub": Method("SCRUB", "SCRUB", View.FINE_SUBSET, lambda folder: Scrub(folder=folder), from_coarse=True),
    "scrub_r": Method(
        "SCRUB+R", "SCRUB+R", View.FINE_SUBSET, lambda folder: ScrubRewind(folder=folder), from_coarse=True
    ),
    "neg_grad_plus": Method(
        "NegGrad+", "NegGrad+", View.FINE_SUBSET, lambda folder: NegGradPlus(folder=folder), from_coarse=True
    ),
    "cf_k": Method("CF-k", "CF-k", View.FINE_SUBSET, lambda folder: CFk(folder=folder), from_coarse=True),
    "eu_k": Method("EU-k", "EU-k", View.FINE_SUBSET, lambda folder: EUk(folder=folder), from_coarse=True),
}


def compare(
    data: MaskDataModule | None = None,
    model: Callable[[], SegmentationModule] | None = None,
    out: Path = Path("runs/compare"),
    steps: int = 600,
    seeds: Sequence[int] = (0,),
    methods: Sequence[MethodName] = DEFAULT_METHODS,
    evaluate_on: Literal["test", "val"] = "test",
    accelerator: str = "auto",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
) -> None:
    """Train on coarse masks, unlearn in every way, test on fine masks; print a table and write a report.

    Every row takes the same number of gradient steps and its last weights; the test part is looked at once per
    row. The seed draws the forget/retain split, the initial weights and the batches. A comparison that was cut
    short goes on where it stopped when it is called again with the same settings.

    Args:
        data: any DataModule of ours; None = the embedded :class:`~erode.datamodules.SyntheticDermoscopy`.
        model: makes a fresh module; None = the default network with the classes of the data.
        out: folder for rows, weights, pictures and report.
        steps: gradient steps of each row.
        seeds: one repetition each.
        methods: rows, in the order given; rows that start from the coarse model need ``coarse`` before them.
        evaluate_on: the part that the numbers come from; make every choice on ``val``.
        accelerator: see Lightning's Trainer.
        precision: see Lightning's Trainer.

    Raises:
        ValueError: if ``out`` holds another comparison, or a row lacks the coarse one it starts from.
    """
    data = data or SyntheticDermoscopy()
    model = model or functools.partial(SegmentationModule, class_names=data.class_names, num_classes=data.num_classes)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the same hints once per row help nobody
    _check_order(out, seeds, methods)
    data.prepare_data()
    settings = _settings(data, model(), steps, precision, evaluate_on)
    _claim(out, settings)
    rows = []
    for seed in seeds:
        if data.split_file is None:
            data.redraw_split(seed)
        for name in methods:
            path = out / "rows" / f"{name}-seed{seed}.json"
            if not path.exists():
                row = _run(name, seed, data, model, out, steps, evaluate_on, accelerator, precision)
                write_json(path, row)
            rows.append(json.loads(path.read_text(encoding="utf-8")))
    write_json(out / "comparison.json", {"settings": settings, "columns": COLUMNS, "rows": rows})
    _draw(out, data, model(), methods, seeds[0])
    print_table(rows, COLUMNS)
    print(f"report: {report(out)}")


COLUMNS = (
    ("dice_lesion", "lesion Dice"),
    ("dice_class", "class Dice"),
    ("auroc", "AUROC"),
    ("auroc_robust", "robust AUROC"),
    ("leakage", "leakage"),
    ("s_global", "S_global [nats]"),
)
"""Columns of the table: metric and title."""


def _run(
    name: MethodName,
    seed: int,
    data: MaskDataModule,
    model: Callable[[], SegmentationModule],
    out: Path,
    steps: int,
    evaluate_on: Literal["test", "val"],
    accelerator: str,
    precision: Literal["32-true", "bf16-mixed"],
) -> dict[str, Any]:
    method = METHODS[name]
    seed_everything(seed, verbose=False)
    module = model()
    folder = _weights(out, name, seed).parent
    shutil.rmtree(folder, ignore_errors=True)  # what a run that was cut short left behind; no row, no run
    if method.from_coarse:
        load_weights(module, _weights(out, "coarse", seed))
    data.serve(method.view)  # an operator may ask for another view
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_steps=steps,
        max_epochs=math.ceil(steps / len(data.train_dataloader())),  # more than enough; for the progress bar
        callbacks=[] if method.operator is None else [method.operator(folder)],
        logger=CSVLogger(out / "logs", name=f"{name}-seed{seed}"),
        default_root_dir=out,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,  # nothing is chosen on the way, so nothing is validated either
        val_check_interval=steps + 1,
        log_every_n_steps=10,
    )
    print(f"seed {seed}: {method.title}")
    started = time.monotonic()
    trainer.fit(module, datamodule=data)
    seconds = time.monotonic() - started
    if method.operator is None:
        save_weights(module, folder / "weights.safetensors")
    evaluate = trainer.test if evaluate_on == "test" else trainer.validate
    metrics = evaluate(module, datamodule=data, verbose=False)[0]
    return {
        "method": name,
        "title": method.title,
        "seed": seed,
        "unlearning": None if method.operator is None else _unlearning(folder),
        "metrics": {key.removeprefix(f"{evaluate_on}/"): _number(value) for key, value in metrics.items()},
        "seconds": round(seconds, 1),
        "split": data.split.digest,
    }


def _unlearning(folder: Path) -> dict[str, Any]:
    """What the operator promises and cost, from the files it left."""
    record = json.loads((folder / "unlearning.json").read_text(encoding="utf-8"))
    if not record["completed"]:
        raise RuntimeError(f"{record['operator']} released nothing: {record['why']}")
    promise = record
    if "certificate" in record:
        promise = json.loads((folder / record["certificate"]).read_text(encoding="utf-8"))["claim"] or {}
    return {
        "guarantee": record["guarantee"],
        "epsilon": promise.get("epsilon"),
        "delta": promise.get("delta"),
        "gradient_evaluations": record["gradient_evaluations"],
    }


def _draw(
    out: Path, data: MaskDataModule, module: SegmentationModule, methods: Sequence[MethodName], seed: int
) -> None:
    """Draw what each row predicts on the same test images: one of each class with, one without an artefact."""
    cases = data.dataset("test").cases
    groups = [(case.label, case.flags.get(data.flag)) for case in cases]
    chosen = sorted(i for group in set(groups) for i in [n for n, g in enumerate(groups) if g == group][:1])
    batch = default_collate([data.dataset("test")[index] for index in chosen])
    predictions = {"coarse mask": batch["coarse"], "fine mask": batch["mask"]}
    for name in methods:
        load_weights(module, _weights(out, name, seed))
        with torch.inference_mode():
            predictions[METHODS[name].short] = module.eval()(batch["image"]).argmax(1)
    samples = [
        Sample(
            image=batch["image"][row].numpy(),
            masks={title: maps[row].numpy() for title, maps in predictions.items()},
            reference="fine mask",
            artefact=batch["artefact"][row].numpy(),
            title=batch["id"][row],
        )
        for row in range(len(chosen))
    ]
    save_figure(gallery_figure(samples, data.class_names), out / "gallery.png")


def _weights(out: Path, name: MethodName, seed: int) -> Path:
    return out / "weights" / f"{name}-seed{seed}" / "weights.safetensors"


def _check_order(out: Path, seeds: Sequence[int], methods: Sequence[MethodName]) -> None:
    there = all(_weights(out, "coarse", seed).exists() for seed in seeds)
    for index, name in enumerate(methods):
        if METHODS[name].from_coarse and not there and "coarse" not in methods[:index]:
            raise ValueError(f"{name} starts from the coarse model: put 'coarse' before it in methods")


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder, or make sure that an old one belongs to the same comparison."""
    path = out / "settings.json"
    if path.exists():
        if digest_of(json.loads(path.read_text(encoding="utf-8"))) != digest_of(settings):
            raise ValueError(
                f"{out} holds a comparison with other settings; nothing is overwritten, choose another out"
            )
    else:
        write_json(path, settings)


def _settings(
    data: MaskDataModule, module: SegmentationModule, steps: int, precision: str, evaluate_on: str
) -> dict[str, Any]:
    return {
        "data": data.describe(),
        "model": module.describe(),
        "steps": steps,
        "precision": precision,
        "evaluated on": evaluate_on,
        "torch": torch.__version__,
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if value == value else None
