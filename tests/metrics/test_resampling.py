"""Curves, thresholds and intervals against independent references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from erode.metrics import exact_binomial, roc_points
from erode.metrics.resampling import (
    GRID,
    cluster_interval,
    percentile_interval,
    resampled_rates,
    resampled_weights,
    threshold_at,
)

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=20).map(lambda values: torch.tensor(values) / 8)


def once(positive, negative):
    """The sides of a comparison in which each score is an item of its own, and counts once."""
    sides = [(scores, torch.arange(len(scores))) for scores in (positive, negative)]
    weights = tuple(torch.ones(1, len(scores), dtype=torch.long) for scores in (positive, negative))
    return (*sides, weights)


@given(SCORES, SCORES)
@settings(deadline=None, max_examples=60)
def test_points_are_those_of_scikit_learn(positive, negative):
    labels = [1] * len(positive) + [0] * len(negative)
    false, true, _ = roc_curve(labels, torch.cat([positive, negative]), drop_intermediate=False)
    mine = roc_points(positive, negative)
    assert np.allclose(mine[0], false)
    assert np.allclose(mine[1], true)


@given(SCORES, SCORES, st.sampled_from([0.01, 0.1, 0.25, 0.5]))
@settings(deadline=None, max_examples=60)
def test_the_threshold_finds_the_most_at_the_rate(positive, negative, rate):
    false, true = roc_points(positive, negative)
    best = true[false <= rate].max()
    assert (positive > threshold_at(negative, rate)).double().mean() == best
    assert resampled_rates(*once(positive, negative), rate)[1].item() == pytest.approx(best.item())


@given(SCORES, SCORES)
@settings(deadline=None, max_examples=60)
def test_the_area_of_a_resample_is_exact_where_scores_are_few(positive, negative):
    labels = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(labels, torch.cat([positive, negative]))
    assert resampled_rates(*once(positive, negative), 0.1)[0] == pytest.approx(expected, abs=1e-12)


def test_and_close_where_they_are_many():
    generator = torch.Generator().manual_seed(0)
    positive, negative = (torch.randn(4 * GRID, generator=generator).double() for _ in range(2))
    positive[:GRID] = 0.3  # many ties
    expected = roc_auc_score([1] * len(positive) + [0] * len(negative), torch.cat([positive, negative]))
    assert resampled_rates(*once(positive, negative), 0.01)[0] == pytest.approx(expected, abs=1 / 2000)


def test_weights_count_whole_items():
    """An item drawn twice is as if it stood there twice."""
    generator = torch.Generator().manual_seed(0)
    scores, others = torch.rand(12, generator=generator), torch.rand(7, generator=generator)
    items = torch.tensor([0] * 3 + [1] * 4 + [2] * 5)
    weights = torch.tensor([[2, 0, 1]]), torch.ones(1, 7, dtype=torch.long)
    area, _ = resampled_rates((scores, items), (others, torch.arange(7)), weights, 0.1)
    drawn = torch.cat([scores[items == 0], scores[items == 0], scores[items == 2]])
    expected = roc_auc_score([1] * len(drawn) + [0] * 7, torch.cat([drawn, others]))
    assert area == pytest.approx(expected, abs=1e-12)


def test_clusters_stay_together_and_strata_keep_their_size():
    clusters = torch.tensor([5, 5, 7, 8, 9, 9])
    strata = torch.tensor([0, 0, 0, 1, 1, 1])
    weights = resampled_weights(clusters, strata, 2000, torch.Generator().manual_seed(0))
    assert torch.equal(weights[:, 0], weights[:, 1])
    assert torch.equal(weights[:, 4], weights[:, 5])
    assert (weights[:, 0] + weights[:, 2] == 2).all()
    assert (weights[:, 3] + weights[:, 4] == 2).all()
    assert weights.double().mean(0).numpy() == pytest.approx(np.ones(6), abs=0.06)


@pytest.mark.parametrize(("successes", "trials"), [(0, 9), (3, 9), (9, 9), (1, 500)])
def test_the_exact_interval_is_scipys(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(0.9, method="exact")
    assert exact_binomial(successes, trials, 0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("interval_of", [cluster_interval, percentile_interval])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_nothing_varies_the_interval_is_that_of_a_perfect_record(value, interval_of):
    """n successes in n trials: the exact binomial interval."""
    interval = interval_of(value, torch.full((50,), value), clusters=20)
    assert interval == pytest.approx(exact_binomial(round(20 * value), 20))


def test_scores_that_are_all_the_same_leave_room_for_others():
    """A share of comparisons that 20 of them may well have missed moves the AUC to either side."""
    low, high = cluster_interval(0.5, torch.full((50,), 0.5), clusters=20)
    missed = exact_binomial(0, 20)[1]
    assert (low, high) == pytest.approx((0.5 - missed / 2, 0.5 + missed / 2))


@pytest.mark.parametrize("interval_of", [cluster_interval, percentile_interval])
def test_one_cluster_or_one_resample_says_nothing(interval_of):
    assert interval_of(0.04, torch.full((50,), 0.04), clusters=1) == (0.0, 1.0)
    assert interval_of(0.04, torch.full((1,), 0.04), clusters=20) == (0.0, 1.0)


def test_percentiles_are_numpys_where_they_have_a_width():
    replicates = torch.rand(101, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.quantile(replicates.numpy(), [0.05, 0.95])
    assert percentile_interval(0.5, replicates, clusters=20, confidence=0.9) == pytest.approx(tuple(expected))


def test_percentiles_without_a_width_reach_as_far_as_where_nothing_varies():
    """A few resamples differ, but too few to move a percentile; at 0 and 1 the wider of the two holds."""
    few, many = torch.full((100,), 0.04), torch.zeros(100)
    few[0], many[:50] = 0.5, 0.4
    assert percentile_interval(0.04, few, clusters=20) == pytest.approx(cluster_interval(0.04, few[1:], clusters=20))
    assert percentile_interval(0.0, many, clusters=20) == pytest.approx((0.0, 0.4))
    many[2:] = 0.0
    assert percentile_interval(0.0, many, clusters=20) == pytest.approx(exact_binomial(0, 20))
