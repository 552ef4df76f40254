"""What a model says of whole images: a segmentation through its pixels, a classifier directly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ...datamodules import MaskDataModule, MaskDataset
from ...datamodules.case import Part
from ...metrics import (
    ImageEvidence,
    SegmentationDice,
    component_probability,
    foreground_probability,
    mean_probability,
    pixels_above,
)

PROBABILITY = "probability"
"""The score that ranks images: of a segmentation the spatial mean, of a classifier its softmax."""


@dataclass(frozen=True)
class ImageScores:
    """A model's view of N images.

    Args:
        evidence: for the decision rule: pixels above thresholds, or the classifier's probabilities.
        scores: ``[N, K]`` by name, larger = more of the class: ``probability``, and of a segmentation also
            ``foreground`` and ``component``, which do not grow with the lesion.
        dice: mean lesion Dice against the masks that the data serve; None for a classifier.
        maps: predicted class per pixel ``[*spatial]`` of each image; empty unless asked for.
    """

    evidence: ImageEvidence
    scores: dict[str, Tensor]
    dice: float | None
    maps: tuple[NDArray[np.int64], ...] = ()


@torch.inference_mode()
def score_images(
    module: LightningModule, data: MaskDataModule, part: Part, device: torch.device, keep_maps: bool = False
) -> ImageScores:
    """Apply a model to every image of one part, in the order of its cases and without augmentation.

    Args:
        module: gives logits ``[B, K, *spatial]`` (a segmentation) or ``[B, K]`` (a classifier).
        data: where the images come from.
        part: which of them.
        device: where to compute; the module stays there.
        keep_maps: keep a segmentation's class maps.

    Raises:
        ValueError: for logits of other shapes.
    """
    module = module.eval().to(device)
    dataset: MaskDataset = data.dataset(part).untransformed()
    rows: list[dict[str, Tensor]] = []
    maps: list[NDArray[np.int64]] = []
    dice = SegmentationDice(data.num_classes)
    for batch in DataLoader(dataset, data.batch_size, num_workers=data.num_workers):
        logits = module(batch["image"].to(device)).float().cpu()
        rows.append(_summarise(logits, batch, data.num_classes))
        if logits.ndim > 2:
            prediction = logits.argmax(1)
            dice.update(prediction, batch["mask"])
            maps += list(prediction.numpy()) if keep_maps else []
    joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    labels = torch.tensor([case.label for case in dataset.cases])
    scores = {name: value for name, value in joined.items() if name != "pixels"}
    if "pixels" in joined:
        evidence = ImageEvidence(part, labels, joined["pixels"])
        return ImageScores(evidence, scores, float(dice.compute()["lesion"]), tuple(maps))
    return ImageScores(ImageEvidence(part, labels, scores[PROBABILITY][:, :, None], thresholds=None), scores, None)


def _summarise(logits: Tensor, batch: dict[str, Any], num_classes: int) -> dict[str, Tensor]:
    """Scores and counts of one batch, in float64: equal scores of different images must not be rounding."""
    if logits.ndim == 2 and logits.shape[1] == num_classes:
        return {PROBABILITY: logits.double().softmax(1)}
    if logits.shape != (len(batch["image"]), num_classes, *batch["image"].shape[2:]):
        raise ValueError(
            f"logits must be [B, {num_classes}] of images or [B, {num_classes}, *spatial] of pixels, got "
            f"{list(logits.shape)}; set num_classes of the model to that of the data"
        )
    probs = logits.double().softmax(1)
    return {
        PROBABILITY: mean_probability(probs),
        "foreground": foreground_probability(probs),
        "component": component_probability(probs),
        "pixels": pixels_above(probs),
    }
