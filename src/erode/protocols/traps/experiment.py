"""Do unlearning and debiasing close the gap that a trap set opens between coarse masks and fine ones?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ...comparison import METHODS, Experiment, MethodName, check_order, weights_of
from ...comparison.networks import fitting
from ...datamodules import MaskDataModule, SyntheticDermoscopy, artefact_correlations
from ...datamodules.case import Part
from ...files import write_json, write_text
from ...lightning_modules import ImageClassifier, SegmentationModule
from ...lightning_modules.fresh import describe_fresh
from ...pictures import save_figure
from ...rows import check_once, check_size, claim
from .baselines import BASELINES, DEFAULT_BASELINES, BaselineName, artefacts_to_hide, check_baselines
from .correlations import show_correlations
from .figure import traps_figure
from .report import markdown_of, print_traps
from .training import BaselineRows

SEGMENTERS: tuple[MethodName, ...] = ("coarse", "oracle", "fine_tune", "retain_view", "gradient_clipping")


def traps(
    data: MaskDataModule | None = None,
    model: Callable[[], SegmentationModule] | None = None,
    classifier: Callable[[], ImageClassifier] | None = None,
    out: Path = Path("runs/traps"),
    methods: Sequence[MethodName] = SEGMENTERS,
    baselines: Sequence[BaselineName] = DEFAULT_BASELINES,
    artefacts: Sequence[str] | None = None,
    steps: int = 600,
    seeds: Sequence[int] = (0,),
    evaluate_on: Literal["test", "val"] = "test",
    accelerator: str = "auto",
    epsilon: float = 1.0,
    delta: float = 1e-7,
) -> None:
    """Train and test on one trap set: what each method wins of what lies between coarse masks and fine ones.

    Prints what the artefacts tell of the label in each part, then, for segmentation methods of ``erode compare``, image
    classifiers and debiasing baselines, AUROC, robust AUROC, that of the worst pair of groups, the same in the
    predicted foreground, and lesion Dice, with the share of the gap between the coarse model and the oracle that each
    closes. Every training takes the same number of steps and nothing is chosen on the way. Writes rows, ``traps.json``,
    ``traps.md`` and ``traps.png``. What was cut short goes on where it stopped when it is called again with the same
    settings; the rows of segmentation are those that ``erode compare`` would write.

    Args:
        data: any DataModule of ours in which artefacts speak for the class in training and not, or against it, in
            test; None = :class:`~erode.datamodules.SyntheticDermoscopy` with correlation 1 in training and -1 in test.
        model: makes a fresh segmentation; None = the default network with the classes and channels of the data.
        classifier: makes a fresh image classifier; None = likewise.
        out: folder of this one trap set.
        methods: rows of segmentation; a row that starts from another's weights needs that one before it.
        baselines: rows beside them, in the order given; those that test another row's weights need that row.
        artefacts: flags that gradient reversal hides; None = all that differ between training images.
        steps: gradient steps of each training.
        seeds: one repetition each; the seed draws the forget/retain split, initial weights and batches.
        evaluate_on: the part that the numbers come from; make every choice on ``val``.
        accelerator: see Lightning's Trainer.
        epsilon: ε of certified rows.
        delta: δ of certified rows.

    Raises:
        ValueError: if ``out`` holds another experiment, a row lacks the one it starts from or is named twice, a
            baseline needs artefact flags that the data lack, the models rank different classes, or a part lacks images
            with or without that class.

    Source: Bissoto et al. 2020 (trap sets); Saab et al. 2022 (robust AUROC); theory §8.
    """
    data = data or SyntheticDermoscopy(train_correlation=1.0, test_correlation=-1.0)
    check_once(seeds=seeds, methods=methods, baselines=baselines)
    check_size(steps, seeds)
    if not (*methods, *baselines):
        raise ValueError("there is nothing to do: name one of methods or baselines")
    present = [name for name in (*METHODS, *BASELINES) if all(weights_of(out, name, seed).exists() for seed in seeds)]
    check_order(methods, [name for name in METHODS if name in present])
    check_baselines(baselines, methods, present)
    hidden = artefacts_to_hide(data, artefacts, baselines)
    data.prepare_data()
    options = fitting(data)
    model = model or functools.partial(SegmentationModule, **options)
    make_classifier = classifier or functools.partial(ImageClassifier, **options)
    positive = model().validation.positive_class
    if any(BASELINES[name].classifier for name in baselines):
        _check_classifier(make_classifier(), positive)
    _check_labels(data, positive, ("train", evaluate_on))
    experiment = Experiment(
        data, model, out, steps, evaluate_on, accelerator, epsilon=epsilon, delta=delta, methods=methods
    )
    if baselines:  # what their rows depend on beside that which the experiment has claimed
        claim(out / "baselines", {"classifier": describe_fresh(make_classifier), "artefacts": hidden}, "trap set")
    cases = [case for part in ("train", "val", "test") for case in data.part(part)]
    correlations = artefact_correlations(cases, data.is_positive)
    if correlations:
        show_correlations(correlations)
    beside = BaselineRows(experiment, make_classifier, hidden)
    rows = [experiment.row(name, seed) for seed in seeds for name in methods]
    rows += [beside.row(name, seed) for seed in seeds for name in baselines]
    plain = [row.plain() for row in correlations]
    write_json(out / "traps.json", {"settings": experiment.settings, "correlations": plain, "rows": rows})
    write_text(out / "traps.md", markdown_of(rows, evaluate_on))
    figure = save_figure(traps_figure(rows, type(data).__name__, evaluate_on), out / "traps.png")
    print_traps(rows, type(data).__name__, evaluate_on)
    print(f"figure: {figure}")


def _check_classifier(classifier: ImageClassifier, positive: int) -> None:
    if classifier.validation.positive_class != positive:
        raise ValueError(
            f"the segmentation ranks class {positive}, the classifier {classifier.validation.positive_class}; give "
            "both the same positive_class"
        )


def _check_labels(data: MaskDataModule, positive: int, parts: Sequence[Part]) -> None:
    for part in parts:
        labels = [case.label for case in data.part(part)]
        if not 0 < labels.count(positive) < len(labels):
            raise ValueError(
                f"{labels.count(positive)} of {len(labels)} images of the {part} part show "
                f"{data.class_names[positive]!r}; a trap misleads about a class that some images show and others do "
                "not: take data, or a task, with several labels"
            )
