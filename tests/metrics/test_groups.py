"""Groups (y, s) against loops in plain Python and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from erode.metrics import (
    GroupAccuracy,
    GroupDice,
    GroupForegroundOutcome,
    GroupIoU,
    SegmentationDice,
)


def maps(seed, images=24):
    generator = torch.Generator().manual_seed(seed)
    pred, mask = (torch.randint(3, (images, 5, 6), generator=generator) for _ in range(2))
    labels = torch.randint(3, (images,), generator=generator)
    flags = torch.randint(-1, 2, (images,), generator=generator)
    return pred, mask, labels, flags


def measured(metric, *arguments, **kwargs):
    metric.update(*arguments, **kwargs)
    return {name: float(value) for name, value in metric.compute().items()}


def members(labels, flags):
    for y in range(3):
        for s in (0, 1):
            inside = (labels == y) & (flags == s)
            if inside.any():
                yield y, s, inside


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=10)
def test_dice_and_accuracy_are_scikit_learns_group_by_group(seed):
    pred, mask, labels, flags = maps(seed)
    predicted = pred[:, 0, 0]
    dice, accuracy = (
        measured(GroupDice(3), pred, mask, labels, flags),
        measured(GroupAccuracy(3), predicted, labels, flags),
    )
    expected, right = {}, []
    for y, s, inside in members(labels, flags):
        pairs = zip(pred[inside] > 0, mask[inside] > 0, strict=True)
        scores = [f1_score(m.flatten(), p.flatten()) for p, m in pairs]
        expected[f"y{y}_s{s}"] = sum(scores) / len(scores)
        right.append(accuracy_score(labels[inside], predicted[inside]))
        assert accuracy[f"y{y}_s{s}"] == pytest.approx(right[-1])
    assert {name: dice[name] for name in expected} == pytest.approx(expected)
    for values, means in ((dice, [*expected.values()]), (accuracy, right)):
        assert values["worst"] == pytest.approx(min(means))
        assert values["gap"] == pytest.approx(max(means) - min(means))
        assert values["groups"] == len(means)


def test_outcomes_are_those_counted_by_hand():
    """Foreground, as truth to prediction. y=1, s=0: 1>1, 1>1, 1>0, 2>1. y=1, s=1: 1>2, 1>2, 1>2, 1>0, 1>1.

    y=2, s=0, of two images: 2>2 and 2>0. y=0, s=1: a false alarm, but no foreground. Then a healthy pixel each, called
    lesion or not, and an image of no known group, which has it all wrong.
    """
    mask = [[1, 1, 1, 2, 0], [1, 1, 1, 1, 1], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 2, 0], [1, 1, 1, 1, 1]]
    pred = [[1, 1, 0, 1, 2], [2, 2, 2, 0, 1], [2, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 2, 2, 0]]
    labels, flags = torch.tensor([1, 1, 2, 0, 2, 1]), torch.tensor([0, 1, 0, 1, 0, -1])
    values = measured(GroupForegroundOutcome(3), torch.tensor(pred), torch.tensor(mask), labels, flags)
    expected = {"y1_s0": (2 / 4, 1 / 4, 1 / 4), "y1_s1": (1 / 5, 3 / 5, 1 / 5), "y2_s0": (1 / 2, 0, 1 / 2)}
    for group, shares in expected.items():
        assert tuple(values[f"{group}_{name}"] for name in ("correct", "flip", "miss")) == pytest.approx(shares)
    for group in ("y0_s0", "y0_s1", "y2_s1"):
        assert all(math.isnan(values[f"{group}_{name}"]) for name in ("correct", "flip", "miss"))
    worst = {"worst_correct": 1 / 5, "worst_flip": 3 / 5, "worst_miss": 1 / 2, "groups": 3}
    assert {name: values[name] for name in worst} == pytest.approx(worst)


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=10)
def test_outcomes_are_numpys_group_by_group(seed):
    pred, mask, labels, flags = maps(seed)
    values = measured(GroupForegroundOutcome(3), pred, mask, labels, flags)
    shares = {"correct": [], "flip": [], "miss": []}
    for y, s, inside in members(labels, flags):
        truth, called = mask[inside].numpy(), pred[inside].numpy()
        called, truth = called[truth > 0], truth[truth > 0]
        alone = {"correct": called == truth, "flip": (called != truth) & (called > 0), "miss": called == 0}
        for name, which in alone.items():
            shares[name].append(np.mean(which))
            assert values[f"y{y}_s{s}_{name}"] == pytest.approx(shares[name][-1])
    assert values["groups"] == len(shares["flip"])
    worst = {"correct": min(shares["correct"]), "flip": max(shares["flip"]), "miss": max(shares["miss"])}
    assert {name: values[f"worst_{name}"] for name in worst} == pytest.approx(worst)


def test_iou_gap_is_scikit_learns_between_common_and_rare():
    pred, mask, labels, flags = maps(0, images=60)
    values = measured(GroupIoU(3, common_flag=[1, 0]), pred, mask, labels, flags)
    for k, common in ((1, 1), (2, 0)):
        iou = {}
        for name, s in (("common", common), ("rare", 1 - common)):
            inside = (labels == k) & (flags == s)
            iou[name] = jaccard_score(mask[inside].flatten() == k, pred[inside].flatten() == k)
            assert values[f"iou_class_{k}_{name}"] == pytest.approx(iou[name])
        assert values[f"gap_class_{k}"] == pytest.approx(iou["common"] - iou["rare"])
    assert values["gap_mean"] == pytest.approx((values["gap_class_1"] + values["gap_class_2"]) / 2)


def test_one_group_holds_what_the_metric_of_all_images_says():
    pred, mask, *_ = maps(1)
    group = torch.ones(len(pred), dtype=torch.long)
    dice = measured(GroupDice(3), pred, mask, group, group)
    assert dice["worst"] == dice["y1_s1"] == measured(SegmentationDice(3), pred, mask)["lesion"]
    assert math.isnan(dice["y0_s0"])


def test_unknown_flags_and_padding_are_left_out():
    pred, mask, labels, flags = maps(2)
    everyone = measured(GroupDice(3), pred, mask, labels, flags)
    known = flags >= 0
    assert everyone == pytest.approx(
        measured(GroupDice(3), pred[known], mask[known], labels[known], flags[known]), nan_ok=True
    )
    counted = torch.arange(24) < 12
    half = measured(GroupForegroundOutcome(3), pred, mask, labels, flags, counted=counted)
    assert half == measured(GroupForegroundOutcome(3), pred[:12], mask[:12], labels[:12], flags[:12])


def test_no_known_image_gives_no_worst_group():
    pred, mask, labels, flags = maps(3)
    for metric in (GroupDice(3), GroupForegroundOutcome(3)):
        values = measured(metric, pred, mask, labels, flags * 0 - 1)
        assert values.pop("groups") == 0
        assert all(math.isnan(value) for value in values.values())


def test_wrong_input_is_refused():
    pred, mask, labels, flags = maps(4)
    with pytest.raises(ValueError, match="labels must be"):
        GroupDice(2).update(pred > 0, mask > 0, labels + 1, flags)
    with pytest.raises(ValueError, match="threshold or argmax"):
        GroupAccuracy(3).update(labels.double(), labels, flags)
    with pytest.raises(ValueError, match="for 24 images"):
        GroupIoU(3, [0, 0]).update(pred, mask, labels[:3], flags[:3])
    with pytest.raises(ValueError, match="for 24 images"):
        GroupDice(3).update(pred, mask, labels[:3], flags[:3])
    with pytest.raises(ValueError, match="2 foreground classes"):
        GroupIoU(3, common_flag=[1])
