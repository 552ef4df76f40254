import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from erode.metrics import ImageAUROC, RobustAUROC

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(-1, 1)), min_size=1, max_size=25)


def tensors(rows):
    values = torch.tensor(rows)
    return values[:, 0] / 5, values[:, 1], values[:, 2]


def sklearn_auroc(scores, labels):
    return float(roc_auc_score(labels, scores)) if len(labels.unique()) == 2 else math.nan


@given(ROWS)
@settings(deadline=None, max_examples=60)
def test_equals_sklearn_with_ties(rows):
    scores, labels, _ = tensors(rows)
    metric = ImageAUROC()
    metric.update(scores, labels)
    expected = sklearn_auroc(scores.double(), labels)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(ROWS)
@settings(deadline=None, max_examples=60)
def test_robust_and_worst_group_are_subsets(rows):
    scores, labels, flags = tensors(rows)
    metric = RobustAUROC()
    metric.update(scores, labels, flags)
    computed = metric.compute()
    conflict = (flags >= 0) & (labels != flags)
    expected = sklearn_auroc(scores[conflict], labels[conflict]) if conflict.any() else math.nan
    assert float(computed["robust"]) == pytest.approx(expected, abs=1e-12, nan_ok=True)

    pairs = []
    for a in (0, 1):
        for b in (0, 1):
            chosen = ((labels == 1) & (flags == a)) | ((labels == 0) & (flags == b))
            if len(labels[chosen].unique()) == 2:
                pairs.append(sklearn_auroc(scores[chosen], labels[chosen]))
    assert int(computed["pairs"]) == len(pairs)
    expected = min(pairs, default=math.nan)
    assert float(computed["worst_group"]) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_hand_computed_groups():
    """y=1: s=0 {.6}, s=1 {.9, .4}; y=0: s=0 {.1, .5}, s=1 {.7}; one image unknown.

    (1,0) vs (0,1), the robust one: .6 < .7, 0 of 1. (1,1) vs (0,1): .9 wins, .4 loses, 1/2.
    (1,0) vs (0,0): 1. (1,1) vs (0,0): 3 of 4. Worst 0; without the robust pair it would be 1/2.
    """
    scores = torch.tensor([0.6, 0.9, 0.4, 0.1, 0.5, 0.7, 0.0])
    labels = torch.tensor([1, 1, 1, 0, 0, 0, 1])
    flags = torch.tensor([0, 1, 1, 0, 0, 1, -1])
    metric = RobustAUROC()
    metric.update(scores, labels, flags)
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == {"robust": 0, "worst_group": 0, "pairs": 4}
    metric.reset()
    metric.update(scores, labels, flags, counted=torch.arange(7) > 0)
    computed = metric.compute()
    assert math.isnan(computed["robust"])
    assert (computed["worst_group"], computed["pairs"]) == (0.5, 2)


def test_order_and_batches_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(101, generator=generator), torch.arange(101) % 2
    order = torch.randperm(101, generator=generator)
    one, other = ImageAUROC(), ImageAUROC()
    one.update(scores, labels)
    for part in order.split(7):
        other.update(scores[part], labels[part])
    assert torch.equal(one.compute(), other.compute())


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="NaN"):
        ImageAUROC().update(torch.tensor([torch.nan]), torch.tensor([1]))
    with pytest.raises(ValueError, match="0 or 1"):
        ImageAUROC().update(torch.tensor([0.5]), torch.tensor([2]))
    with pytest.raises(ValueError, match="channel"):
        ImageAUROC().update(torch.rand(1, 2), torch.tensor([1]))
    with pytest.raises(ValueError, match="flags"):
        RobustAUROC().update(torch.tensor([0.5]), torch.tensor([1]), torch.tensor([2]))
