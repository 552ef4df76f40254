"""How far do debiasing and unlearning close the gap that trap sets open between coarse masks and fine ones?

``python benchmarks/trap_sets.py --root FOLDER --out runs/traps`` draws trap sets of ISIC 2017 (`TrapSplit`) of growing
bias, prints what the artefacts tell of the label in each part, and tests, on the reversed test part: the segmentation
models of `erode compare` by two rule-based scores (mean of the malignant channel over all pixels, which grows with the
lesion, and over the predicted foreground, which does not), the coarse model with the
test-time baselines of Bissoto et al., gradient reversal, and image classifiers without and with the same. Every
training takes the same number of steps. It goes on where it stopped. With ``--synthetic`` the same of
SyntheticDermoscopy, whose artefacts lie inside the coarse masks: the bias is the correlation of artefact and class in
training, and in test its negative.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.table import Table

from erode import comparison
from erode.callbacks import BackgroundNormalisation, GradientReversal, NoiseCrop
from erode.comparison_report import mean_and_sd
from erode.correlations import correlation_table
from erode.datamodules import (
    ISICDataModule,
    MaskDataModule,
    SyntheticDermoscopy,
    TrapSplit,
    artefact_correlations,
)
from erode.datamodules.isic_layouts import ARTEFACTS
from erode.files import write_json
from erode.lightning_modules import ImageClassifier, SegmentationModule
from erode.masks import DiskDilation, View
from erode.methods import MethodName
from erode.weights import load_weights, save_weights

SEGMENTERS: tuple[MethodName, ...] = ("coarse", "oracle", "fine_tune", "retain_view", "gradient_clipping")


@dataclass(frozen=True)
class Baseline:
    """One row that is no unlearning operator.

    Args:
        title: what people read.
        trained: row whose weights are tested; None = train here.
        classifier: classify images instead of segmenting them.
        training: makes the callbacks of the training.
        testing: makes those of the test.
        reversal: train against a head that tells the artefacts from the features.
    """

    title: str
    trained: str | None = None
    classifier: bool = False
    training: Callable[[], list[Callback]] = list
    testing: Callable[[], list[Callback]] = list
    reversal: bool = False


def _normalised() -> list[Callback]:
    return [BackgroundNormalisation(mask_key="mask", training=True, background_key="mask")]


BASELINES = {
    "background": Baseline("coarse, mean background", "coarse", testing=lambda: [BackgroundNormalisation()]),
    "noise_crop": Baseline("coarse, noise crop", "coarse", testing=lambda: [NoiseCrop()]),
    "reversal": Baseline("coarse, gradient reversal", reversal=True),
    "classifier": Baseline("image classifier", classifier=True),
    "classifier_reversal": Baseline("classifier, gradient reversal", classifier=True, reversal=True),
    "classifier_background": Baseline(
        "classifier, mean background, true masks", classifier=True, training=_normalised, testing=_normalised
    ),
    "classifier_noise_crop": Baseline(
        "classifier, noise crop, true masks", "classifier", True, testing=lambda: [NoiseCrop(mask_key="mask")]
    ),
}


def isic(root: Path, bias: float) -> ISICDataModule:
    """Masks dilated by 8 pixels of 64, 10 % of them fine, in three classes, trapped."""
    return ISICDataModule(
        root=root,
        size=64,
        task="multiclass",
        flag="ruler",
        fine_fraction=0.1,
        coarsening=DiskDilation(half_width=8),
        trap=TrapSplit(bias=bias),
    )


def synthetic(bias: float) -> SyntheticDermoscopy:
    """The same of painted lesions."""
    return SyntheticDermoscopy(
        train_correlation=bias, test_correlation=-bias, fine_fraction=0.1, coarsening=DiskDilation(half_width=8)
    )


def artefacts_of(source: MaskDataModule) -> Sequence[str]:
    """The flags that speak for the label."""
    return source.artefacts if isinstance(source, SyntheticDermoscopy) else ARTEFACTS


def run(name: str, seed: int, source: MaskDataModule, out: Path, steps: int, part: str, accelerator: str) -> None:
    """Train, if the row trains, and test; nothing where its file is there."""
    path = out / "rows" / f"{name}-seed{seed}.json"
    if path.exists():
        return
    baseline = BASELINES[name]
    seed_everything(seed, verbose=False)
    build = ImageClassifier if baseline.classifier else SegmentationModule
    module: LightningModule = build(num_classes=source.num_classes, class_names=source.class_names)
    # A classifier sees labels of images only; the true masks are for those of its baselines that are given them.
    source.serve(View.FINE if baseline.classifier else View.COARSE)
    if baseline.trained is None:
        print(f"seed {seed}: {baseline.title}")
        callbacks: list[Callback] = (
            [GradientReversal(artefacts_of(source))] if baseline.reversal else baseline.training()
        )
        _trainer(out, name, steps, accelerator, callbacks).fit(module, datamodule=source)
        save_weights(module, _weights(out, name, seed))
    else:
        load_weights(module, _weights(out, baseline.trained, seed))
    trainer = _trainer(out, name, steps, accelerator, baseline.testing())
    evaluate = trainer.test if part == "test" else trainer.validate
    metrics = evaluate(module, datamodule=source, verbose=False)[0]
    known = {key.removeprefix(f"{part}/"): None if math.isnan(value) else value for key, value in metrics.items()}
    write_json(path, {"method": name, "title": baseline.title, "seed": seed, "metrics": known})


def _trainer(out: Path, name: str, steps: int, accelerator: str, callbacks: list[Callback]) -> Trainer:
    return Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=steps,
        callbacks=callbacks,
        logger=CSVLogger(out / "logs", name=name),
        default_root_dir=out,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,  # nothing is chosen on the way, so nothing is validated either
        val_check_interval=steps + 1,
    )


def _weights(out: Path, name: str, seed: int) -> Path:
    return out / "weights" / f"{name}-seed{seed}" / "weights.safetensors"


def compare(source: MaskDataModule, arguments: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """All rows of one trap set."""
    comparison.compare(
        source,
        functools.partial(SegmentationModule, num_classes=source.num_classes, class_names=source.class_names),
        out=out,
        steps=arguments.steps,
        seeds=arguments.seeds,
        methods=SEGMENTERS,
        evaluate_on=arguments.part,
        accelerator=arguments.accelerator,
    )
    for seed in arguments.seeds:
        for name in arguments.baselines:
            run(name, seed, source, out, arguments.steps, arguments.part, arguments.accelerator)
    names = [*SEGMENTERS, *arguments.baselines]
    paths = [out / "rows" / f"{name}-seed{seed}.json" for name in names for seed in arguments.seeds]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def closed(rows: Sequence[dict[str, Any]], method: str, metric: str) -> float | None:
    """Part of the gap between coarse and oracle that a method closes, of means over seeds; None without a gap.

    There is none where the oracle is not above the coarse model by more than the larger of their spreads.
    """
    values = {
        name: [row["metrics"].get(metric) for row in rows if row["method"] == name]
        for name in ("coarse", "oracle", method)
    }
    if method in ("coarse", "oracle") or any(value is None for runs in values.values() for value in runs):
        return None
    low, high, here = (statistics.mean(values[name]) for name in ("coarse", "oracle", method))
    spread = max(statistics.stdev(values[name]) if len(values[name]) > 1 else 0.0 for name in ("coarse", "oracle"))
    return (here - low) / (high - low) if high - low > spread else None


def table(rows: Sequence[dict[str, Any]], bias: float) -> Table:
    """One line per method."""
    scores = {"AUROC": "auroc", "robust AUROC": "auroc_robust", "AUROC in foreground": "auroc_foreground"}
    headings = [heading for score in scores for heading in (score, "gap closed")]
    result = Table("method", *headings, "lesion Dice", title=f"bias {bias:g}")
    for method in dict.fromkeys(row["method"] for row in rows):
        runs = [row for row in rows if row["method"] == method]
        cells = [runs[0]["title"]]
        for metric in scores.values():
            share = closed(rows, method, metric)
            cells.append(mean_and_sd([run["metrics"].get(metric) for run in runs]))
            cells.append("–" if share is None else f"{share:.0%}")
        result.add_row(*cells, mean_and_sd([run["metrics"].get("dice_lesion") for run in runs]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="trap sets: correlations, and what closes the gap they open")
    parser.add_argument("--root", type=Path, default=Path("../shared/data/isic2017"), help="of ISIC 2017")
    parser.add_argument("--synthetic", action="store_true", help="SyntheticDermoscopy instead of ISIC")
    parser.add_argument("--out", type=Path, default=Path("runs/traps"))
    parser.add_argument("--biases", nargs="+", type=float, default=(0.0, 0.5, 1.0))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--baselines", nargs="*", choices=tuple(BASELINES), default=tuple(BASELINES))
    parser.add_argument("--part", choices=("test", "val"), default="test", help="val for every choice")
    parser.add_argument("--accelerator", default="cpu")
    arguments = parser.parse_args()
    console = Console(width=max(120, Console().width))
    results = {}
    for bias in arguments.biases:
        source = synthetic(bias) if arguments.synthetic else isic(arguments.root, bias)
        cases = [case for part in ("train", "val", "test") for case in source.part(part)]
        correlations = artefact_correlations(cases, source.is_positive)
        console.print(correlation_table(correlations))
        rows = compare(source, arguments, arguments.out / f"bias-{bias:g}")
        results[bias] = {"correlations": [row.plain() for row in correlations], "rows": rows}
        console.print(table(rows, bias))
    write_json(arguments.out / "traps.json", {f"{bias:g}": result for bias, result in results.items()})


if __name__ == "__main__":
    main()
