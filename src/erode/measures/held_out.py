"""What the models say on images that trained nothing: usual metrics, groups, rings, other rates, the probe."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ..callbacks.batches.bottleneck import find_bottleneck
from ..datamodules import MaskDataModule
from ..lightning_modules.evaluation import Evaluation
from ..metrics import (
    Completeness,
    GroupDice,
    GroupForegroundOutcome,
    GroupIoU,
    LinearProbe,
    RadialDice,
    SliceCounts,
    balanced_subset,
    inverted_subset,
    mann_whitney_auroc,
    mean_probability,
    pooled_features,
    prevalence_sweep,
    weighted_auroc,
)
from .values import Subject, Values, plain

RINGS = 13
"""Square rings from the image centre to its border, as in the source: 10 pixels each at 256²."""

ENOUGH = 0.01
"""Share of all lesion pixels that a ring must hold to be the worst one."""

RATES = np.linspace(0, 1, 11).round(1).tolist()
"""P(artefact | positive) of the sweep."""


class HeldOut:
    """All measures of one model on one part of the data.

    Args:
        data: serves the part.
        subject: the model.
        is_reference: whether it is the one that completeness compares with.
        bootstrap: resamples for the interval of S_global.
    """

    def __init__(self, data: MaskDataModule, subject: Subject, is_reference: bool, bootstrap: int) -> None:
        classes = data.num_classes
        positive = ranked_class(subject.network, classes)
        self.subject = subject
        self._is_reference = is_reference
        self._positive_class = positive
        self._sides = f"(class 1: {data.class_names[positive]}, class 0: all other images)"
        self._evaluation = Evaluation(data.class_names, self._positive_class, bootstrap)
        self._groups = GroupDice(classes)
        self._outcome = GroupForegroundOutcome(classes)
        common = common_flags(data)
        self._overlap = None if common is None else GroupIoU(classes, common)
        self._radial: RadialDice | None = None
        self._probe = LinearProbe()
        self._completeness = Completeness(classes)
        self.slices = SliceCounts(classes)
        """Its table of predictions by artefact and truth."""
        self.left_out: dict[str, str] = {}
        """Why a measure is not defined, by its name; filled by `compute` and `sweep`."""
        self._scores: list[Tensor] = []
        self._positive: list[Tensor] = []
        self._flags: list[Tensor] = []

    def logits(self, image: Tensor) -> Tensor:
        """Logits of a batch, on the CPU."""
        with torch.inference_mode():
            logits: Tensor = self.subject.network(image).float().cpu()
        return logits

    def update(self, logits: Tensor, features: Tensor, expected: Tensor, batch: dict[str, Any]) -> None:
        """Add a batch.

        Args:
            logits: of this model ``[B, K, *spatial]``.
            features: of its bottleneck ``[B, D]``.
            expected: class map of the reference ``[B, *spatial]``.
            batch: with fine masks.
        """
        prediction, mask, counted = logits.argmax(1), batch["mask"], batch["counted"]
        labels, flags = batch["label"], batch["flag"]
        if self._radial is None:
            self._radial = RadialDice(RINGS, min(mask.shape[1:]) / 2 / RINGS)
        self._evaluation.update(logits, batch)
        for metric in (self._groups, self._outcome, self._overlap):
            if metric is not None:
                metric.update(prediction, mask, labels, flags, counted=counted)
        self._radial.update(prediction, mask, counted=counted)
        self._probe.update(features, flags, counted=counted, cluster=batch.get("group"))
        self._completeness.update(prediction, expected, counted=counted)
        self.slices.update(prediction, mask, batch["artefact"], counted=counted)
        self._scores.append(mean_probability(logits.softmax(1))[counted, self._positive_class])
        self._positive.append((labels == self._positive_class).long()[counted])
        self._flags.append(flags[counted])

    def compute(self) -> Values:
        """Every number, NaN where the data do not define it."""
        assert self._radial is not None  # no part is empty
        values = plain("", self._evaluation.compute())
        values |= plain("group_dice_", self._groups.compute())
        values |= plain("group_", self._outcome.compute())
        if self._overlap is not None:
            values |= plain("", self._overlap.compute())
        values |= self._rings(self._radial)
        values["probe_auroc"] = float(self._probe.compute())
        if not self._is_reference:
            values["completeness"] = float(self._completeness.compute()["lesion"])
        return values | self._resampled_auroc()

    def sweep(self) -> list[tuple[float, float]]:
        """Points (P(artefact | positive), AUROC); none where a group (y, s) has no image."""
        scores, positive, flags = self._images()
        try:
            points = prevalence_sweep(
                lambda weights: weighted_auroc(scores, positive, weights), positive, flags, "flag_given_positive", RATES
            )
        except ValueError as error:
            self.left_out["sweep"] = f"{error} {self._sides}"
            return []
        if any(math.isnan(point.value) for point in points):
            self.left_out["sweep"] = f"an AUROC needs images of two classes at every rate {self._sides}"
            return []
        return [(point.rate, point.value) for point in points]

    @staticmethod
    def _rings(radial: RadialDice) -> Values:
        """Dice by ring, and the worst of those rings that hold enough of the lesions to tell."""
        rings = radial.compute()
        lesion = radial.counts[:, :, 1].sum(1)
        enough = lesion >= ENOUGH * lesion.sum()
        seen = torch.stack(list(rings.values()))[enough]
        return plain("dice_", rings) | {"dice_worst_ring": float(seen.min()) if len(seen) else float("nan")}

    def _resampled_auroc(self) -> Values:
        scores, positive, flags = self._images()
        subsets: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "auroc_balanced": balanced_subset,
            "auroc_inverted": inverted_subset,
        }
        values = {}
        for name, choose in subsets.items():
            try:
                chosen = choose(positive, flags)
            except ValueError as error:  # a group without images, or with too few
                values[name] = float("nan")
                self.left_out[name] = f"{error} {self._sides}"
                continue
            inside, label = scores[chosen], positive[chosen]
            values[name] = float(mann_whitney_auroc(inside[label == 1], inside[label == 0]))
        return values

    def _images(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.cat(self._scores), torch.cat(self._positive), torch.cat(self._flags)


def look(
    data: MaskDataModule,
    part: Literal["val", "test"],
    subjects: Sequence[Subject],
    reference: Subject,
    device: torch.device,
    bootstrap: int,
) -> list[HeldOut]:
    """One pass of all models over a part of the data.

    Args:
        data: serves the part.
        part: which.
        subjects: the models, the reference among them.
        reference: whose masks completeness compares with.
        device: of the models.
        bootstrap: resamples for the interval of S_global.
    """
    shape = tuple(data.dataset(part)[0]["image"].shape)
    layer = find_bottleneck(reference.network, image_shape=shape).name
    views = [HeldOut(data, subject, subject is reference, bootstrap) for subject in subjects]
    place = list(subjects).index(reference)
    with ExitStack() as stack:
        features = [stack.enter_context(pooled_features(subject.network, layer)) for subject in subjects]
        for batch in data.val_dataloader() if part == "val" else data.test_dataloader():
            logits = [view.logits(batch["image"].to(device)) for view in views]
            expected = logits[place].argmax(1)
            for view, own, passes in zip(views, logits, features, strict=True):
                view.update(own, _of_images(passes, view, batch["image"].to(device)).cpu(), expected, batch)
    return views


def _of_images(passes: list[Tensor], view: HeldOut, image: Tensor) -> Tensor:
    """Features ``[B, D]`` of a batch from the passes that it took, which are forgotten.

    A module that looks at an image several times, window by window, gives the mean over all looks. Whose windows stand
    in which pass is its own affair, so such images pass once more, one by one.
    """
    if len(passes) == 1 and len(passes[0]) == len(image):
        return passes.pop()
    found = []
    for index in range(len(image)):
        passes.clear()
        view.logits(image[index : index + 1])
        found.append(torch.cat(passes).mean(0))
    passes.clear()
    return torch.stack(found)


def ranked_class(network: LightningModule, num_classes: int) -> int:
    """The class whose presence AUROC ranks: the module's ``positive_class``; the last one where a module has none.

    Args:
        network: of ours with an :class:`~erode.lightning_modules.evaluation.Evaluation`, or any other.
        num_classes: of the data, background included.
    """
    evaluation = getattr(network, "validation", None)
    return evaluation.positive_class if isinstance(evaluation, Evaluation) else num_classes - 1


def common_flags(data: MaskDataModule) -> list[int] | None:
    """The artefact flag that most training images of each foreground class have; None where a class has no known one.

    Args:
        data: whose training images are counted; of binary data all images with a lesion are of class 1.
    """
    flags = []
    for label in range(1, data.num_classes):
        count = Counter(case.flags.get(data.flag) for case in data.part("train") if case.label == label)
        if not count[0] + count[1]:
            return None
        flags.append(int(count[1] > count[0]))
    return flags
