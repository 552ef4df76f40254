"""The specificity ladder: what every kind of label says about the artefact, and what a model makes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from ...comparison.networks import fitting
from ...datamodules import MaskDataModule, SaabSynthetic
from ...files import write_json, write_text
from ...lightning_modules import ImageClassifier, SegmentationModule
from ...lightning_modules.fresh import describe_fresh
from ...masks import View
from ...metrics import CoarseContent
from ...objectives import GroupDRO, JustTrainTwice
from ...pictures import save_figure
from ...rows import check_once, check_size, claim, number, stored
from .figure import ladder_figure
from .report import markdown_of, print_ladder, write_csv
from .rungs import Robust, Rung, rungs
from .training import train_and_evaluate

Factory = Callable[[], SegmentationModule | ImageClassifier]


def ladder(
    data: MaskDataModule | None = None,
    model: Callable[[], SegmentationModule] | None = None,
    classifier: Callable[[], ImageClassifier] | None = None,
    out: Path = Path("runs/ladder"),
    windows: Sequence[int] = (1, 2, 4, 8, 20),
    box: bool = False,
    half_widths: Sequence[float] = (2,),
    objectives: Sequence[Robust] = (),
    steps: int = 300,
    seeds: Sequence[int] = (0,),
    bootstrap: int = 1000,
    evaluate_on: Literal["test", "val"] = "test",
    accelerator: str = "auto",
) -> None:
    """Climb from image labels to exact masks: spurious information of the labels beside what a model learns of them.

    Each rung labels all training images in one way. Of these labels it measures tightness, spurious information and
    variance beside their closed forms; a fresh model per seed is trained on them and evaluated on fine masks. The
    image label is learnt by a classifier, every other rung by segmentation. A ladder that was cut short goes on where
    it stopped when it is called again with the same settings.

    Source: Saab et al. 2022 (MLHC), section 3; theory §7.4.

    Args:
        data: any DataModule of ours that makes its coarse masks; None = the recipe of the source.
        model: makes a fresh segmentation module; None = one that fits the data.
        classifier: makes a fresh classifier; None = likewise.
        out: folder for rows, tables and the figure.
        windows: specificities r of windows, larger = finer; 1 = the whole image is positive.
        box: whether the bounding box is a rung.
        half_widths: half-widths of disk dilations in pixels.
        objectives: further rungs of image labels, learnt by GroupDRO over groups of label and artefact flag, or by Just
            Train Twice, whose first stage takes a fifth of the steps; their other settings are the defaults. Other
            settings: those of ``classifier``, whose own objective is always the first rung.
        steps: gradient steps of each model.
        seeds: of initial weights and batches; one model each. None at all = measure the labels alone, in seconds.
        bootstrap: resamples of the images for the interval of spurious information.
        evaluate_on: the part that AUROC and Dice come from; make every choice on ``val``.
        accelerator: see Lightning's Trainer.

    Raises:
        ValueError: if ``out`` holds another ladder, or the data bring coarse masks of their own.
    """
    data = data or SaabSynthetic(flips=False)
    steps_up = rungs(windows, box, half_widths, objectives)
    data.recoarsen(steps_up[0].coarsening)
    data.prepare_data()
    options = fitting(data)
    makers: dict[bool, Factory] = {
        True: model or functools.partial(SegmentationModule, **options),
        False: classifier or functools.partial(ImageClassifier, **options),
    }
    settings = {
        "data": {key: value for key, value in data.describe().items() if key != "coarsening"},
        "model": describe_fresh(makers[True]),
        "classifier": describe_fresh(makers[False]),
        "steps": steps,
        "bootstrap": bootstrap,
        "evaluated on": evaluate_on,
        "torch": torch.__version__,
    }
    check_once(seeds=seeds, rungs=[rung.name for rung in steps_up])
    if seeds:  # none at all = the labels alone
        check_size(steps, seeds)
    claim(out, settings, "ladder")
    contents, rows = [], []
    for rung in steps_up:
        data.recoarsen(rung.coarsening)
        contents.append(stored(out / "labels" / f"{rung.name}.json", functools.partial(_labels, rung, data, bootstrap)))
        for seed in seeds:
            train = functools.partial(
                _train, rung, seed, data, makers[rung.pixels], out, steps, evaluate_on, accelerator
            )
            rows.append(stored(out / "rows" / f"{rung.name}-seed{seed}.json", train))
    contents.sort(key=lambda content: (content["pixels"], content["tightness"]))
    write_json(out / "ladder.json", {"settings": settings, "labels": contents, "rows": rows})
    write_csv(contents, rows, out / "ladder.csv")
    write_text(out / "ladder.md", markdown_of(contents, rows, evaluate_on))
    save_figure(ladder_figure(contents, rows, type(data).__name__, evaluate_on), out / "ladder.png")
    print_ladder(contents, rows, evaluate_on)
    print(f"figure: {out / 'ladder.png'}")


def _labels(rung: Rung, data: MaskDataModule, bootstrap: int) -> dict[str, Any]:
    """What the labels of a rung hold, over all training images as they are, whatever transform trains on them."""
    data.serve(View.FINE)  # beside the coarse masks
    metric = CoarseContent(bootstrap)
    for batch in DataLoader(data.dataset("train").untransformed(), data.batch_size):
        metric.update(batch["image"], batch["mask"], batch["coarse"], batch["artefact"], cluster=batch["group"])
    content = metric.result()
    values = {key: number(value) for key, value in vars(content).items() if key != "interval"}
    low, high = map(number, content.interval)
    names = {"rung": rung.name, "title": rung.title, "pixels": rung.pixels, "coarsening": rung.coarsening.describe()}
    return {**names, **values, "information_low": low, "information_high": high}


def _train(
    rung: Rung,
    seed: int,
    data: MaskDataModule,
    make: Factory,
    out: Path,
    steps: int,
    evaluate_on: Literal["test", "val"],
    accelerator: str,
) -> dict[str, Any]:
    seed_everything(seed, verbose=False)
    data.serve(View.COARSE)
    print(f"seed {seed}: {rung.title}")
    module = make()
    if rung.objective is not None:
        assert isinstance(module, ImageClassifier)
        module.objective = GroupDRO() if rung.objective == "group_dro" else JustTrainTwice(max(1, steps // 5))
    run = train_and_evaluate(module, data, steps, out / "logs" / f"{rung.name}-seed{seed}", evaluate_on, accelerator)
    return {"rung": rung.name, "title": rung.title, "seed": seed, **run}
