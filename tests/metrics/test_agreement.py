"""Completeness against scikit-learn's Jaccard, image by image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score

from erode.metrics import Completeness


def values(pred, reference, **kwargs):
    metric = Completeness(3)
    metric.update(pred, reference, **kwargs)
    return {name: float(value) for name, value in metric.compute().items()}


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_it_is_scikit_learns_jaccard_averaged_over_images(seed):
    generator = torch.Generator().manual_seed(seed)
    pred, reference = (torch.randint(3, (4, 6, 5), generator=generator) for _ in range(2))
    pred[0], reference[0] = 0, 0  # both empty: 1
    pred[1][pred[1] == 2], reference[1][reference[1] == 2] = 0, 0  # class 2 in neither: does not count
    computed = values(pred, reference)
    pairs = [(p.flatten().numpy(), r.flatten().numpy()) for p, r in zip(pred, reference, strict=True)]
    lesion = [jaccard_score(p > 0, r > 0) for p, r in pairs[1:]]
    assert computed["lesion"] == pytest.approx((1 + sum(lesion)) / 4, abs=1e-10)
    second = [jaccard_score(p == 2, r == 2) for p, r in pairs[2:]]
    assert computed["class_2"] == pytest.approx(sum(second) / 2, abs=1e-10)
    assert computed["class_mean"] == pytest.approx((computed["class_1"] + computed["class_2"]) / 2)
    assert computed["agreement"] == pytest.approx(accuracy_score(reference.flatten(), pred.flatten()))


def test_only_the_chosen_pixels_are_compared():
    pred, reference = torch.tensor([[1, 1, 0, 2]]), torch.tensor([[1, 0, 0, 1]])
    where = torch.tensor([[True, True, False, False]])
    assert values(pred, reference, where=where)["agreement"] == 0.5
    assert values(pred, reference, where=where)["lesion"] == 0.5
    nowhere = values(pred, reference, where=torch.zeros_like(where))
    assert all(value != value for value in nowhere.values())


def test_it_is_symmetric_and_one_for_equal_models():
    pred, reference = (torch.randint(3, (5, 8, 8), generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert values(pred, reference) == values(reference, pred)
    assert set(values(pred, pred).values()) == {1.0}


def test_padding_copies_do_not_count():
    pred, reference = torch.tensor([[1, 1], [0, 1]]), torch.tensor([[1, 0], [1, 1]])
    padded = values(pred, reference, counted=torch.tensor([True, False]))
    assert padded["lesion"] == 0.5
    assert padded["agreement"] == 0.5


def test_scores_in_place_of_classes_are_refused():
    with pytest.raises(ValueError, match="argmax"):
        values(torch.rand(1, 4), torch.zeros(1, 4).long())
