"""Recall and specificity by subgroup, with the intervals of an independent implementation."""

import math

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import recall_score

from erode.metrics import Proportion, subgroup_rates

CALLED, POSITIVE, INSIDE, EVERYONE = (
    torch.rand(200, generator=torch.Generator().manual_seed(seed)) < share
    for seed, share in enumerate((0.6, 0.3, 0.2, 2.0))
)


def test_rates_are_those_of_scikit_learn():
    rates = subgroup_rates(CALLED, POSITIVE, {"all": EVERYONE, "rare": INSIDE})
    for name, members in (("all", EVERYONE), ("rare", INSIDE)):
        truth, decided = POSITIVE[members].numpy(), CALLED[members].numpy()
        assert rates[name].recall.value == pytest.approx(recall_score(truth, decided))
        assert rates[name].specificity.value == pytest.approx(recall_score(~truth, ~decided))
        assert rates[name].recall.trials + rates[name].specificity.trials == int(members.sum())


@pytest.mark.parametrize("successes", [0, 3, 10])
def test_intervals_are_those_of_scipy(successes):
    expected = binomtest(successes, 10).proportion_ci(0.9, method="exact")
    assert Proportion(successes, 10).interval(0.9) == pytest.approx((expected.low, expected.high))


def test_an_empty_subgroup_says_nothing():
    rates = subgroup_rates(CALLED, POSITIVE, {"none": torch.zeros(200)})["none"]
    assert math.isnan(rates.recall.value)
    assert rates.recall.interval() == (0.0, 1.0)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="ruler must be"):
        subgroup_rates(CALLED, POSITIVE, {"ruler": INSIDE[:3]})
