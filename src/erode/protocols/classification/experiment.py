"""Segmentation for classification (Hooper et al. 2023): masks against image labels, from few images to all."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, seed_everything

from ...comparison.networks import fitting
from ...datamodules import LabelledSubset, MaskDataModule, SyntheticDermoscopy
from ...files import write_json
from ...lightning_modules import ImageClassifier, SegmentationModule
from ...lightning_modules.fresh import describe_fresh
from ...metrics import DecisionRule
from ...rows import check_once, check_size, claim, stored
from ...weights import load_weights
from .decisions import Judge
from .pseudo_masks import PseudoMasks, pseudo_masks
from .report import write_report
from .scores import score_images
from .subsets import fine_cases, labelled_ids
from .training import Run, fit_best

ArmName = Literal["segmentation", "classifier", "semi", "semi_filtered"]
Pseudo = Literal["all", "consistent"]


@dataclass(frozen=True)
class Arm:
    """One line of the curve.

    Args:
        title: what people read.
        labels: what it learns from.
        pseudo: pseudo-masks of the other images that it learns from, too; the segmentation predicts them.
    """

    title: str
    labels: Literal["masks", "classes"]
    pseudo: Pseudo | None = None


ARMS: dict[ArmName, Arm] = {
    "segmentation": Arm("segmentation", "masks"),
    "classifier": Arm("image classifier", "classes"),
    "semi": Arm("segmentation + all pseudo-masks", "masks", "all"),
    "semi_filtered": Arm("segmentation + pseudo-masks that fit the class", "masks", "consistent"),
}
DEFAULT_ARMS: tuple[ArmName, ...] = ("segmentation", "classifier", "semi", "semi_filtered")


def classify(
    data: MaskDataModule | None = None,
    model: Callable[[], SegmentationModule] | None = None,
    classifier: Callable[[], ImageClassifier] | None = None,
    out: Path = Path("runs/classify"),
    fractions: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
    seeds: Sequence[int] = (0,),
    arms: Sequence[ArmName] = DEFAULT_ARMS,
    steps: int = 300,
    classifier_steps: int | None = None,
    validations: int = 5,
    accelerator: str = "auto",
) -> None:
    """Classify images by segmenting them, and by an image classifier, from few training images to all.

    Every row of an arm takes the same number of gradient steps, whatever the fraction, and keeps the weights of the
    best validation AUROC; ``metrics.csv`` beside them tells whether it had learnt all it could. Thresholds are chosen
    on the whole validation part, whatever the fraction, and frozen; the test part is looked at once per row. Fractions
    of one seed are nested. Writes rows, ``classification.json``, two CSV files, a Markdown page and a figure; a run
    that was cut short goes on where it stopped when it is called again with the same settings.

    Args:
        data: any DataModule of ours whose images differ in class; None = the embedded
            :class:`~erode.datamodules.SyntheticDermoscopy`.
        model: makes a fresh segmentation; None = the default network with the classes, channels and dimensions of
            the data.
        classifier: makes a fresh image classifier; None = the default one.
        out: folder for everything.
        fractions: of the training images that are labelled, in (0, 1].
        seeds: one repetition each; the seed draws images, initial weights and batches.
        arms: lines of the curve; the semi-supervised ones need ``segmentation`` before them, and images without labels.
        steps: gradient steps of each row.
        classifier_steps: those of the classifier, which one label per image teaches more slowly; None = ``steps``.
        validations: looks at the validation AUROC in each row.
        accelerator: see Lightning's Trainer.

    Raises:
        ValueError: if ``out`` holds another experiment, a class is absent from a part or fraction, an arm lacks the
            segmentation that it starts from, the models rank different classes, or the classifier trains twice.
    """
    data = data or SyntheticDermoscopy()
    check_once(arms=arms, seeds=seeds, fractions=fractions)
    check_size(min(steps, classifier_steps or steps), seeds)
    _check_order(arms)
    data.prepare_data()
    options = fitting(data)
    model = model or functools.partial(SegmentationModule, **options)
    classifier = classifier or functools.partial(ImageClassifier, **options)
    positive = _check_models(model(), classifier())
    judge = Judge(data, positive)
    labelled = {(f, seed): labelled_ids(data, f, seed) for f in fractions for seed in seeds}
    runs = {
        "masks": Run(steps, validations, accelerator),
        "classes": Run(classifier_steps or steps, validations, accelerator),
    }
    settings = {
        "data": data.describe(),
        "model": describe_fresh(model),
        "classifier": describe_fresh(classifier),
        "steps": steps,
        "classifier steps": runs["classes"].steps,
        "validations": validations,
        "size edges [pixels]": judge.size_edges,
        "torch": torch.__version__,
    }
    claim(out, settings, "classification")
    rows = []
    for (fraction, seed), ids in labelled.items():
        for name in arms:
            if ARMS[name].pseudo is not None and len(ids) == len(fine_cases(data)):
                continue  # no image is left without a mask
            make = model if ARMS[name].labels == "masks" else classifier
            run = runs[ARMS[name].labels]
            key = f"{name}-{fraction:g}-seed{seed}"
            compute = functools.partial(_run, name, fraction, seed, ids, data, make, judge, out, run)
            rows.append(stored(out / "rows" / f"{key}.json", compute))
    write_json(out / "classification.json", {"settings": settings, "rows": rows})
    print(write_report(out, rows, data.class_names[positive]))


def _run(
    name: ArmName,
    fraction: float,
    seed: int,
    ids: list[str],
    data: MaskDataModule,
    make: Callable[[], LightningModule],
    judge: Judge,
    out: Path,
    run: Run,
) -> dict[str, Any]:
    arm = ARMS[name]
    print(f"{len(ids)} images, seed {seed}: {arm.title}")
    started = time.monotonic()
    pseudo = None
    if arm.pseudo is not None:
        teacher = make()
        load_weights(teacher, _folder(out, "segmentation", fraction, seed) / "weights.safetensors")
        pseudo = _pseudo_masks(arm.pseudo, teacher, data, ids)
    served = LabelledSubset(data, ids, None if pseudo is None else pseudo.masks)
    seed_everything(seed, verbose=False)
    module = make()
    device = fit_best(module, served, _folder(out, name, fraction, seed), run)
    validation, test = (score_images(module, served, part, device) for part in ("val", "test"))
    rule = DecisionRule.fit(validation.evidence)
    return {
        "arm": name,
        "title": arm.title,
        "fraction": fraction,
        "images": len(ids),
        "seed": seed,
        "pseudo": None if pseudo is None else pseudo.describe(),
        "rule": rule.describe(),
        **judge.judge(rule, validation, test),
        "seconds": round(time.monotonic() - started, 1),
        "device": device.type,
    }


def _pseudo_masks(which: Pseudo, teacher: LightningModule, data: MaskDataModule, ids: list[str]) -> PseudoMasks:
    rest = [case.id for case in fine_cases(data) if case.id not in {*ids}]
    unlabelled = LabelledSubset(data, rest)
    unlabelled.transform = None  # masks of images as they are, not as an augmentation would show them
    scores = score_images(teacher, unlabelled, "train", teacher.device, keep_maps=True)
    rule = DecisionRule.fit(score_images(teacher, data, "val", teacher.device).evidence)
    return pseudo_masks(rest, scores, rule, consistent=which == "consistent")


def _folder(out: Path, name: ArmName, fraction: float, seed: int) -> Path:
    return out / "models" / f"{name}-{fraction:g}-seed{seed}"


def _check_order(arms: Sequence[ArmName]) -> None:
    for index, name in enumerate(arms):
        if ARMS[name].pseudo is not None and "segmentation" not in arms[:index]:
            raise ValueError(f"{name} learns from masks that the segmentation predicts: put 'segmentation' before it")


def _check_models(model: SegmentationModule, classifier: ImageClassifier) -> int:
    """The class that both rank."""
    positive = model.validation.positive_class
    if classifier.validation.positive_class != positive:
        raise ValueError(
            f"the segmentation ranks class {positive}, the classifier {classifier.validation.positive_class}; give "
            "both the same positive_class"
        )
    if classifier.objective.stage_end is not None:
        raise ValueError(
            f"{type(classifier.objective).__name__} trains twice, and the best validation AUROC could be that of the "
            "first time; choose an objective of one stage, such as ERM or GroupDRO"
        )
    return positive
