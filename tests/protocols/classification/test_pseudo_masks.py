"""Pseudo-masks have one class each, and the filter keeps those that agree with what is known of the image."""

import numpy as np
import torch

from erode.metrics import DecisionRule, ImageEvidence
from erode.protocols.classification.pseudo_masks import pseudo_masks
from erode.protocols.classification.scores import ImageScores

RULE = DecisionRule(cuts=(1.0, 1.0), thresholds=(0.5, 0.5), healthy=True)


def scores(labels, pixels, maps):
    values = torch.tensor([[0, *row] for row in pixels])[:, :, None]
    evidence = ImageEvidence("train", torch.tensor(labels), values, (0.5,))
    return ImageScores(evidence, {}, None, tuple(np.array(m).reshape(2, 2) for m in maps))


ALL = scores(
    labels=[1, 2, 0, 1, 2],
    pixels=[(4, 0), (3, 0), (0, 1), (0, 0), (0, 2)],  # decided: 1, 1, 0, 0, 2
    maps=[[1, 1, 2, 0], [1, 1, 1, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
)
IDS = ["right", "wrong class", "healthy", "missed", "no pixel"]


def test_without_the_filter_the_decided_class_fills_the_foreground():
    found = pseudo_masks(IDS, ALL, RULE, consistent=False)
    assert {name: mask.ravel().tolist() for name, mask in found.masks.items()} == {
        "right": [1, 1, 1, 0],
        "wrong class": [1, 1, 1, 0],
        "healthy": [0, 0, 0, 0],
        "missed": [0, 0, 0, 0],
    }
    assert found.describe() == {"predicted": 5, "kept": 4}


def test_the_filter_keeps_what_fits_the_class():
    found = pseudo_masks(IDS, ALL, RULE, consistent=True)
    assert list(found.masks) == ["right", "healthy"]


def test_unfiltered_masks_do_not_look_at_classes():
    others = ImageEvidence("train", torch.zeros(5, dtype=torch.long), ALL.evidence.values, (0.5,))
    blind = pseudo_masks(IDS, ImageScores(others, {}, None, ALL.maps), RULE, consistent=False)
    for name, mask in pseudo_masks(IDS, ALL, RULE, consistent=False).masks.items():
        np.testing.assert_array_equal(blind.masks[name], mask)
