import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from erode.metrics import (
    BoxTightness,
    break_even,
    refinement_advice,
    spurious_information_closed_form,
    table_information,
    turning_point,
)

UNIT = st.floats(0.001, 0.999)


@given(gamma=UNIT, w=UNIT)
@settings(deadline=None, max_examples=60)
def test_closed_form_is_the_information_of_the_joint_table(gamma, w):
    """Rows S, columns Y inside the coarse mask; artefact and lesion do not overlap."""
    table = torch.tensor([[(1 - w) * (1 - gamma), gamma], [w * (1 - gamma), 0.0]], dtype=torch.float64)
    expected = float(table_information(table))
    assert float(spurious_information_closed_form(gamma, w)) == pytest.approx(expected, abs=1e-12)


@given(gamma=UNIT, w=UNIT)
@settings(deadline=None, max_examples=60)
def test_closed_form_is_the_published_one(gamma, w):
    rest = gamma + (1 - w) * (1 - gamma)
    published = (
        w * (1 - gamma) * math.log(1 / (1 - gamma))
        + (1 - w) * (1 - gamma) * math.log((1 - w) / rest)
        + gamma * math.log(1 / rest)
    )
    assert float(spurious_information_closed_form(gamma, w)) == pytest.approx(published, abs=1e-12)


@given(w=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_ends_are_exactly_zero(w):
    assert spurious_information_closed_form(torch.tensor([0.0, 1.0]), w).tolist() == [0, 0]


def test_published_synthetic_setting():
    """Saab: a = 8, b = 12, n = 40, so w = 144/1536. r = 1, 4, 8, 10, 20, 40 (reference, checked there)."""
    n, a = 40, 8
    gamma = torch.tensor([a**2 / min(n, a + 2 * (math.ceil(n / r) - 1)) ** 2 for r in (1, 4, 8, 10, 20, 40)])
    information = spurious_information_closed_form(gamma, 144 / (n**2 - a**2))
    expected = torch.tensor([0.0039, 0.0088, 0.0211, 0.0260, 0.0355, 0.0]).double()
    torch.testing.assert_close(information, expected, rtol=0, atol=6e-5)


@given(w=st.floats(0.001, 0.999))
@settings(deadline=None, max_examples=40)
def test_turning_point_is_the_maximum(w):
    def loss(gamma):
        return -float(spurious_information_closed_form(gamma, w))

    found = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
    assert turning_point(w) == pytest.approx(found.x, abs=1e-4)


def test_turning_point_has_its_limits():
    assert turning_point(1e-7) == pytest.approx(turning_point(0), abs=1e-6)
    assert turning_point(1 - 1e-9) == pytest.approx(turning_point(1), abs=1e-6)
    with pytest.raises(ValueError, match="w = "):
        turning_point(1.5)


@given(gamma=UNIT, w=st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=40)
def test_break_even_has_as_much_information(gamma, w):
    even = break_even(gamma, w)
    assert even >= max(gamma, turning_point(w))
    here, there = (float(spurious_information_closed_form(g, w)) for g in (gamma, even))
    assert there == pytest.approx(here, abs=1e-9)


def test_advice_changes_at_the_turning_point():
    assert "raises" in refinement_advice(0.6)
    assert "lowers" in refinement_advice(0.7)
    assert "1.00" in refinement_advice(0.0)


def test_tightness_by_hand():
    """Coarse 4 + 4 pixels, lesion inside 1 + 2: 3/8. Lesion outside the coarse mask does not count."""
    metric = BoxTightness()
    mask = torch.tensor([[0, 1, 0, 0, 0], [0, 2, 2, 0, 1], [1, 1, 1, 1, 1]])
    coarse = torch.tensor([[1, 1, 1, 1, 0], [2, 2, 2, 2, 0], [1, 1, 1, 1, 1]])
    metric.update(mask, coarse, counted=torch.tensor([True, True, False]))
    assert metric.compute() == 3 / 8
    metric.reset()
    metric.update(mask, torch.zeros_like(coarse))
    assert math.isnan(metric.compute())
