"""Rows beside the unlearning operators: image classifiers, and debiasing in training or in test."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import Callback
from torch import nn

from ...callbacks import BackgroundNormalisation, NoiseCrop
from ...datamodules import MaskDataModule
from ...masks import View

BaselineName = Literal[
    "background",
    "noise_crop",
    "reversal",
    "classifier",
    "classifier_reversal",
    "classifier_background",
    "classifier_noise_crop",
    "classifier_noise_crop_true",
]


@dataclass(frozen=True)
class Baseline:
    """One row that is no unlearning operator.

    Args:
        title: what people read.
        trained: row whose weights are tested; None = trained for this row.
        segmenter: row whose model predicts the masks that test-time debiasing uses; None = see ``testing``.
        classifier: classify images instead of segmenting them.
        view: labels that training serves; a classifier learns the class of the image whichever it is.
        training: makes the callbacks of the training.
        testing: makes those of the test, given the segmenter.
        reversal: train against a head that tells the artefacts from the features; needs flags.
    """

    title: str
    trained: Literal["coarse", "classifier"] | None = None
    segmenter: Literal["coarse"] | None = None
    classifier: bool = False
    view: View = View.COARSE
    training: Callable[[], list[Callback]] = list
    testing: Callable[[nn.Module | None], list[Callback]] = lambda segmenter: []
    reversal: bool = False


def _normalised(_: nn.Module | None = None) -> list[Callback]:
    return [BackgroundNormalisation(mask_key="mask", training=True, background_key="mask")]


BASELINES: dict[BaselineName, Baseline] = {
    "background": Baseline("coarse, mean background", "coarse", testing=lambda _: [BackgroundNormalisation()]),
    "noise_crop": Baseline("coarse, noise crop", "coarse", testing=lambda _: [NoiseCrop()]),
    "reversal": Baseline("coarse, gradient reversal", reversal=True),
    "classifier": Baseline("image classifier", classifier=True),
    "classifier_reversal": Baseline("classifier, gradient reversal", classifier=True, reversal=True),
    "classifier_background": Baseline(
        "classifier, mean background, true masks",
        classifier=True,
        view=View.FINE,
        training=_normalised,
        testing=_normalised,
    ),
    "classifier_noise_crop": Baseline(
        "classifier, noise crop",
        "classifier",
        segmenter="coarse",
        classifier=True,
        testing=lambda segmenter: [NoiseCrop(segmenter=segmenter)],
    ),
    "classifier_noise_crop_true": Baseline(
        "classifier, noise crop, true masks",
        "classifier",
        classifier=True,
        testing=lambda _: [NoiseCrop(mask_key="mask")],
    ),
}
DEFAULT_BASELINES: tuple[BaselineName, ...] = tuple(BASELINES)


def check_baselines(names: Sequence[BaselineName], methods: Sequence[str], present: Collection[str] = ()) -> None:
    """Make sure that every baseline which uses another row's weights has that row before it.

    Args:
        names: baselines in their order; methods run before them.
        methods: rows of segmentation.
        present: rows that are there already.

    Raises:
        ValueError: naming the baseline that lacks another row.
    """
    for index, name in enumerate(names):
        uses = {"tests the weights": BASELINES[name].trained, "takes the masks": BASELINES[name].segmenter}
        for what, other in uses.items():
            if other is not None and other not in (*methods, *names[:index], *present):
                where = "methods" if other == "coarse" else f"baselines before '{name}'"
                raise ValueError(f"{name} {what} of the {other} model: put '{other}' into {where}")


def artefacts_to_hide(data: MaskDataModule, given: Sequence[str] | None, names: Sequence[BaselineName]) -> list[str]:
    """The flags that gradient reversal hides.

    Args:
        data: whose training images have artefact flags, if a baseline needs them.
        given: names of flags; None = all that differ between training images, and of those ``any`` only where it is
            the only one.
        names: baselines that are to run.

    Returns:
        Names in the order given, or in which cases name them; none where there are none and no baseline needs them.

    Raises:
        ValueError: if a baseline needs flags and the training images have none, or not one of those given.
    """
    values: dict[str, set[int]] = {}
    for case in data.part("train"):
        for name, value in case.flags.items():
            values.setdefault(name, set()).add(value)
    telling = [name for name, found in values.items() if len(found) > 1]
    needing = [name for name in names if BASELINES[name].reversal]
    if needing and not telling:
        raise ValueError(
            f"{', '.join(needing)}: gradient reversal hides artefacts by their flags, and the training images have "
            "none that differ; give data with artefact flags, or leave it out of baselines"
        )
    for name in given or ():
        if name not in telling:
            known = "is the same in all training images" if name in values else "is on no training image"
            raise ValueError(f"the artefact flag {name!r} {known}: choose of {', '.join(telling) or 'none'}")
    return list(given) if given else [name for name in telling if name != "any"] or telling
