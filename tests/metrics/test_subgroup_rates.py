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


def test_clusters_are_counted_and_widen_intervals():
    """Patients who are called in all of their images, or in none, are as many draws as there are patients."""
    called = (torch.arange(20) < 14).repeat_interleave(6)
    everyone, patients = torch.ones(120, dtype=torch.bool), torch.arange(20).flip(0).repeat_interleave(6)
    share = subgroup_rates(called, everyone, {"all": everyone}, patients)["all"]
    assert share.recall.clusters == [[0, 6]] * 6 + [[6, 6]] * 14
    assert share.specificity.interval() == (0.0, 1.0)
    low, high = share.recall.interval()
    assert (low, high) == pytest.approx(Proportion(14, 20).interval(), abs=0.05)
    exact = Proportion(84, 120).interval()
    assert low < exact[0] < exact[1] < high


def test_intervals_of_clusters_hold_the_truth():
    generator, missed = torch.Generator().manual_seed(0), {"clustered": 0, "independent": 0}
    for _ in range(150):
        rates = torch.where(torch.rand(30, generator=generator) < 0.7, 0.95, 0.05).repeat_interleave(5)
        called, everyone = torch.rand(150, generator=generator) < rates, torch.ones(150, dtype=torch.bool)
        patients = torch.arange(30).repeat_interleave(5)
        for name, cluster in (("clustered", patients), ("independent", None)):
            low, high = subgroup_rates(called, everyone, {"all": everyone}, cluster)["all"].recall.interval()
            missed[name] += not low <= 0.7 * 0.95 + 0.3 * 0.05 <= high
    assert missed["clustered"] <= 15
    assert missed["independent"] > 40
