"""Masks for unlabelled images from a trained segmentation, filtered by the classes of the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...metrics import DecisionRule
from .scores import ImageScores


@dataclass(frozen=True)
class PseudoMasks:
    """Predicted masks that serve as labels.

    Args:
        masks: ``[*spatial]`` class maps by id.
        predicted: number of images there were to choose from.
    """

    masks: dict[str, NDArray[np.int64]]
    predicted: int

    def describe(self) -> dict[str, Any]:
        """Plain values for records."""
        return {"predicted": self.predicted, "kept": len(self.masks)}


def pseudo_masks(ids: list[str], scores: ImageScores, rule: DecisionRule, consistent: bool) -> PseudoMasks:
    """Predicted foreground, in each image of the one class that the rule decides on.

    An image that the rule finds healthy has none. One that it names a class without a foreground pixel is dropped.

    Args:
        ids: ``[N]`` names of the images.
        scores: what the segmentation says of them, with class maps.
        rule: chosen on validation images.
        consistent: keep only the images on whose known class the rule agrees.

    Source: Hooper et al. 2023 (semi-supervised variant, and the boosted one, in which class labels filter
        pseudo-masks); one pathology class per image as in theory §1.
    """
    evidence = scores.evidence
    decided = rule.decide(evidence).tolist()
    masks = {}
    for name, classes, label, known in zip(ids, scores.maps, decided, evidence.labels.tolist(), strict=True):
        mask = np.where(classes > 0, label, 0).astype(np.int64)
        if int(mask.max()) == label and (label == known or not consistent):
            masks[name] = mask
    return PseudoMasks(masks, len(ids))
