import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.metrics import ForegroundOutcome


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_shares_are_their_definitions_and_sum_to_one(seed):
    generator = torch.Generator().manual_seed(seed)
    pred, mask = (torch.randint(4, (2, 5, 5), generator=generator) for _ in range(2))
    metric = ForegroundOutcome(num_classes=4)
    metric.update(pred, mask)
    computed = {name: float(value) for name, value in metric.compute().items()}
    lesion = mask > 0
    assert computed["correct"] == pytest.approx(float((pred == mask)[lesion].double().mean()))
    assert computed["miss"] == pytest.approx(float((pred == 0)[lesion].double().mean()))
    assert sum(computed.values()) == pytest.approx(1)


def test_without_foreground_there_is_no_outcome():
    metric = ForegroundOutcome(num_classes=2)
    metric.update(torch.ones(1, 3).long(), torch.zeros(1, 3).long())
    assert all(value.isnan() for value in metric.compute().values())
