import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import DiceMetric

from erode.metrics import SegmentationDice


@given(seed=st.integers(0, 999), classes=st.integers(2, 4))
@settings(deadline=None, max_examples=20)
def test_equals_monai(seed, classes):
    """MONAI leaves out classes that the reference lacks, as we do."""
    generator = torch.Generator().manual_seed(seed)
    pred, mask = (torch.randint(classes, (4, 3, 3), generator=generator) for _ in range(2))
    mask *= torch.rand(4, 1, 1, generator=generator) < 0.7
    metric = SegmentationDice(classes)
    metric.update(pred, mask)
    computed = metric.compute()

    reference = DiceMetric(include_background=False, num_classes=classes, reduction="mean_batch")
    per_class = reference(pred[:, None], mask[:, None]).nanmean(0)
    for k in range(1, classes):
        assert float(computed[f"class_{k}"]) == pytest.approx(float(per_class[k - 1]), abs=1e-6, nan_ok=True)
    lesion = DiceMetric(include_background=False, ignore_empty=False, num_classes=2)
    expected = lesion((pred > 0).long()[:, None], (mask > 0).long()[:, None]).mean()
    if bool(((mask > 0).flatten(1).any(1)).all()):
        assert float(computed["lesion"]) == pytest.approx(float(expected), abs=1e-6)


def test_empty_masks_by_hand():
    """Image 1: both empty, 1. Image 2: false lesion, 0. Image 3: 2·1/(2+1) = 2/3, class 1 seen once."""
    pred = torch.tensor([[0, 0, 0], [0, 2, 0], [1, 1, 0]])
    mask = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 0, 0]])
    metric = SegmentationDice(num_classes=3)
    metric.update(pred, mask)
    computed = metric.compute()
    assert float(computed["lesion"]) == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert float(computed["class_1"]) == pytest.approx(2 / 3)
    assert math.isnan(computed["class_2"])
    assert computed["class_mean"] == computed["class_1"]


def test_a_flipped_class_is_a_found_lesion():
    metric = SegmentationDice(num_classes=3)
    metric.update(torch.tensor([[2, 2, 0]]), torch.tensor([[1, 1, 0]]))
    assert metric.compute()["lesion"] == 1
    assert metric.compute()["class_1"] == 0


def test_no_image_no_score():
    metric = SegmentationDice(num_classes=2)
    metric.update(torch.ones(1, 3).long(), torch.ones(1, 3).long(), counted=torch.tensor([False]))
    assert math.isnan(metric.compute()["lesion"])
