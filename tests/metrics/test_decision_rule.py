"""Thresholds are the best there are on validation images, are chosen nowhere else, and then stay."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_curve

from erode.metrics import DecisionRule, ImageEvidence, balanced_accuracy, pixels_above, positive_by_area

THRESHOLDS = (0.25, 0.5, 0.75)


def both(labels):
    return 0 < sum(labels) < len(labels)


LABELS = st.lists(st.integers(0, 1), min_size=3, max_size=12).filter(both)


def probabilities(images, classes, seed=0, side=6):
    return torch.rand(images, classes, side, side, generator=torch.Generator().manual_seed(seed)).mul(4).softmax(1)


def evidence(probs, labels, part="val"):
    return ImageEvidence(part, torch.as_tensor(labels), pixels_above(probs, THRESHOLDS), THRESHOLDS)


@settings(max_examples=40, deadline=None)
@given(LABELS, st.integers(0, 99))
def test_no_other_pair_of_thresholds_is_better_on_validation(labels, seed):
    probs = probabilities(len(labels), 2, seed)
    rule = DecisionRule.fit(evidence(probs, labels))
    found = balanced_accuracy_score(labels, rule.present(evidence(probs, labels), 1))
    every = [
        balanced_accuracy_score(labels, positive_by_area(probs, t, area)[:, 1])
        for t in THRESHOLDS
        for area in range(37)
    ]
    assert found == pytest.approx(max(every))


def test_a_rule_calls_what_the_published_one_calls():
    probs, labels = probabilities(20, 2), [0, 1] * 10
    rule = DecisionRule.fit(evidence(probs, labels))
    (t,), (area,) = rule.thresholds, rule.cuts
    assert area == int(area)  # pixels
    fresh = probabilities(30, 2, seed=1)
    called = rule.present(evidence(fresh, [0] * 30, "test"), 1)
    assert called.tolist() == positive_by_area(fresh, t, int(area))[:, 1].tolist()
    assert called.any()
    assert not called.all()


@settings(max_examples=40, deadline=None)
@given(LABELS, st.integers(0, 99))
def test_the_cut_of_a_score_is_that_of_the_best_youden_index(labels, seed):
    scores = np.random.default_rng(seed).integers(0, 6, len(labels)) / 5.0
    rule = DecisionRule.fit(of_scores(scores, labels))
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    found = balanced_accuracy(rule.present(of_scores(scores, labels), 1).long(), torch.tensor(labels))
    assert float(found) == pytest.approx((1 + max(true - false)) / 2)


def of_scores(scores, labels, part="val"):
    columns = torch.stack([1 - torch.tensor(scores), torch.tensor(scores)], 1)
    return ImageEvidence(part, torch.tensor(labels), columns[:, :, None], None)


def test_cuts_lie_half_way_between_images():
    rule = DecisionRule.fit(of_scores([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]))
    assert rule.cuts == pytest.approx((0.4,))
    assert rule.healthy


def test_no_rule_is_chosen_outside_validation_or_changed():
    for part in ("train", "test"):
        with pytest.raises(ValueError, match=f"validation part alone, got evidence of part '{part}'"):
            DecisionRule.fit(of_scores([0.1, 0.9], [0, 1], part))
    rule = DecisionRule.fit(of_scores([0.1, 0.9], [0, 1]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.cuts = (0.9,)


def test_test_labels_do_not_move_a_decision():
    rule = DecisionRule.fit(of_scores([0.1, 0.9], [0, 1]))
    scores = [0.2, 0.45, 0.55]
    decisions = [rule.decide(of_scores(scores, labels, "test")).tolist() for labels in ([0, 0, 1], [1, 1, 0])]
    assert decisions == [[0, 0, 1]] * 2


def pixels(*rows):
    """Pixels of classes 1 and 2 above one threshold."""
    return torch.tensor([[0, *row] for row in rows])[:, :, None]


def test_of_several_classes_the_one_of_most_excess_is_named():
    labels = torch.tensor([0, 1, 2])
    values = pixels((10, 0), (50, 0), (10, 20))  # class 2 is smaller wherever it is
    rule = DecisionRule.fit(ImageEvidence("val", labels, values, (0.5,)))
    assert rule.cuts == (30.0, 10.0)
    found = rule.decide(
        ImageEvidence("test", torch.zeros(4, dtype=torch.long), pixels((30, 10), (60, 30), (35, 20), (31, 0)), (0.5,))
    )
    assert found.tolist() == [0, 1, 2, 1]


def test_where_every_image_shows_a_class_one_is_always_named():
    values = pixels((50, 0), (10, 20))
    rule = DecisionRule.fit(ImageEvidence("val", torch.tensor([1, 2]), values, (0.5,)))
    assert not rule.healthy
    assert rule.decide(ImageEvidence("test", torch.tensor([1]), pixels((0, 0)), (0.5,))).tolist() == [2]


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, decided = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    ours = balanced_accuracy(torch.tensor(decided), torch.tensor(labels))
    assert float(ours) == pytest.approx(balanced_accuracy_score(labels, decided))


def test_wrong_evidence_is_refused():
    with pytest.raises(ValueError, match="show class 1, and a threshold needs images with and without"):
        DecisionRule.fit(of_scores([0.1, 0.9], [1, 1]))
    with pytest.raises(ValueError, match="NaN"):
        of_scores([float("nan"), 0.2], [0, 1])
    with pytest.raises(ValueError, match="infinite scores, between which no cut lies"):
        of_scores([float("inf"), -float("inf"), 0.2], [1, 0, 1])
    with pytest.raises(ValueError, match="evidence must be"):
        ImageEvidence("val", torch.tensor([0, 1]), torch.zeros(2, 2, 3), (0.5,))
    rule = DecisionRule.fit(of_scores([0.1, 0.9], [0, 1]))
    with pytest.raises(ValueError, match="other way round"):
        rule.decide(ImageEvidence("test", torch.tensor([0]), torch.zeros(1, 2, 1), (0.5,)))
    with pytest.raises(ValueError, match="rule is of 2 classes, the evidence of 3"):
        rule.decide(ImageEvidence("test", torch.tensor([0]), torch.zeros(1, 3, 1), None))
    counted = DecisionRule.fit(evidence(probabilities(4, 2), [0, 1, 0, 1]))
    with pytest.raises(ValueError, match="no pixels were counted"):
        counted.decide(ImageEvidence("test", torch.tensor([0]), torch.zeros(1, 2, 1), (0.9,)))
    with pytest.raises(ValueError, match="softmax"):
        pixels_above(torch.zeros(2, 2, dtype=torch.long))
