"""One experiment, every way of getting rid of a dilation artefact: train, unlearn, test, one table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import default_collate

from ..datamodules import MaskDataModule
from ..files import write_json
from ..lightning_modules import SegmentationModule
from ..pictures import Sample, gallery_figure, save_figure
from ..report import report
from ..report.table import print_table
from ..rows import check_once, check_size
from ..weights import load_weights
from .experiment import Experiment, weights_of
from .methods import DEFAULT_METHODS, METHODS, MethodName

COLUMNS = (
    ("dice_lesion", "lesion Dice"),
    ("dice_class", "class Dice"),
    ("auroc", "AUROC"),
    ("auroc_robust", "robust AUROC"),
    ("leakage", "leakage"),
    ("s_global", "S_global [nats]"),
    ("membership_auc", "membership AUC"),
)
"""Columns of the table: metric and title."""


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
    epsilon: float = 1.0,
    delta: float = 1e-7,
    validations: int = 0,
    wandb_group: str | None = None,
) -> None:
    """Train on coarse masks, unlearn in every way, test on fine masks; print a table and write a report.

    Every row takes the same number of gradient steps (``rewind`` half of them, pixel heads spend them on pretraining)
    and its last weights; the test part is looked at once per row. The seed draws the forget/retain split, the initial
    weights and the batches. A comparison that was cut short goes on where it stopped when it is called again with the
    same settings.

    Args:
        data: any DataModule of ours; None = the embedded :class:`~erode.datamodules.SyntheticDermoscopy`.
        model: makes a fresh module; None = the default network with the classes of the data.
        out: folder for rows, weights, pictures and report.
        steps: gradient steps of each row.
        seeds: one repetition each.
        methods: rows, in the order given; a row that starts from another's weights needs that one before it.
        evaluate_on: the part that numbers and pictures come from; make every choice on ``val``.
        accelerator: see Lightning's Trainer.
        precision: see Lightning's Trainer.
        epsilon: ε of certified rows.
        delta: δ of certified rows.
        validations: times that S_global and Dice are measured on the validation part on the way; 0 = never.
        wandb_group: group of the runs in Weights & Biases; None = they are not logged there.

    Raises:
        ValueError: if ``out`` holds another comparison, a row lacks the one it starts from, is named twice, or cannot
            be certified with these steps, ε and δ.
    """
    check_once(seeds=seeds, methods=methods)
    check_size(steps, seeds)
    check_order(methods, [name for name in METHODS if all(weights_of(out, name, seed).exists() for seed in seeds)])
    experiment = Experiment(
        data, model, out, steps, evaluate_on, accelerator, precision, epsilon, delta, validations, wandb_group, methods
    )
    rows = [experiment.row(name, seed) for seed in seeds for name in methods]
    write_json(out / "comparison.json", {"settings": experiment.settings, "columns": COLUMNS, "rows": rows})
    experiment.draw_split(seeds[0])
    draw_predictions(experiment, methods, seeds[0])
    print_table(rows, COLUMNS, evaluate_on)
    print(f"report: {report(out)}")


def check_order(methods: Sequence[MethodName], present: Collection[MethodName] = ()) -> None:
    """Make sure that every row has the one it starts from before it.

    Args:
        methods: rows in their order.
        present: rows that are there already.

    Raises:
        ValueError: naming the row that lacks another.
    """
    for index, name in enumerate(methods):
        start = METHODS[name].start
        if start is not None and start not in present and start not in methods[:index]:
            raise ValueError(f"{name} starts from the {start} model: put '{start}' before it in methods")


def draw_predictions(experiment: Experiment, methods: Sequence[MethodName], seed: int) -> Path:
    """Draw what each row predicts on the same images of the part that numbers come from.

    One image of each class with, one without an artefact.
    """
    data = experiment.data
    dataset = data.dataset(experiment.evaluate_on)
    cases = dataset.cases
    groups = [(case.label, case.flags.get(data.flag)) for case in cases]
    chosen = sorted(i for group in set(groups) for i in [n for n, g in enumerate(groups) if g == group][:1])
    batch = default_collate([dataset[index] for index in chosen])
    predictions = {"coarse mask": batch["coarse"], "fine mask": batch["mask"]}
    for name in methods:
        module = experiment.module(name, seed)
        load_weights(module, experiment.weights(name, seed))
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
    return save_figure(gallery_figure(samples, data.class_names), experiment.out / "gallery.png")
