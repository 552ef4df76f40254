"""The smoothed quantiser against sampling, and removal budgets against every possible removal."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.accounting import RemovalBudgets, quantiser_probabilities, removal_budget, smoothed_threshold


@pytest.mark.parametrize(("gradient", "kappa", "sigma"), [(0.0, 1.0, 1.0), (0.7, 0.5, 0.3), (-2.0, 1.0, 2.0)])
def test_probabilities_are_those_of_sampled_noise(gradient, kappa, sigma):
    noisy = gradient + sigma * np.random.default_rng(0).standard_normal(400_000)
    sampled = [(noisy < -kappa).mean(), (np.abs(noisy) <= kappa).mean(), (noisy > kappa).mean()]
    assert quantiser_probabilities(gradient, kappa, sigma) == pytest.approx(sampled, abs=4e-3)


@settings(deadline=None)
@given(st.floats(0.0, 3.0), st.floats(1e-3, 3.0), st.floats(-9.0, 9.0))
def test_the_likeliest_value_changes_at_the_threshold_and_nowhere_else(kappa, sigma, gradient):
    threshold = smoothed_threshold(kappa, sigma)
    assert 0 <= threshold <= kappa
    below, zero, above = quantiser_probabilities(gradient, kappa, sigma)
    if abs(gradient) < threshold * (1 - 1e-9):
        assert zero >= max(below, above) - 1e-12
    if abs(gradient) > threshold * (1 + 1e-9) + 1e-12:
        assert (above if gradient > 0 else below) >= max(zero, below, above) - 1e-12


def decision(total, samples, threshold):
    return np.sign(total) * (abs(total) > threshold * samples)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(-10, 10), min_size=2, max_size=9), st.integers(0, 9))
def test_no_removal_within_the_budget_changes_the_decision(values, threshold):
    """Every subset is tried."""
    total, n = sum(values), len(values)
    budget = int(removal_budget(np.array([total]), n, threshold, grid=10)[0])
    assert 0 <= budget < n
    before = decision(total, n, threshold)
    for removed in range(1, budget + 1):
        for subset in itertools.combinations(values, removed):
            assert decision(total - sum(subset), n - removed, threshold) == before


@settings(deadline=None, max_examples=300)
@given(st.integers(2, 40), st.integers(0, 9), st.data())
def test_one_more_removal_would_change_it_where_samples_lie_at_the_bound(n, threshold, data):
    """The budget is attained: m + 1 samples at ±b, the others anything that adds up to Σ."""
    total = data.draw(st.integers(-10 * n, 10 * n))
    budget = int(removal_budget(np.array([total]), n, threshold, grid=10)[0])
    removed = budget + 1
    before = decision(total, n, threshold)
    if removed >= n:
        return
    taken = {1: [10], -1: [-10], 0: [-10, 10]}[int(before)]
    changes = [decision(total - removed * q, n - removed, threshold) != before for q in taken]
    assert any(changes)


@given(st.integers(2, 10**6), st.floats(-1, 1), st.floats(0, 0.99))
def test_it_is_at_least_the_budget_of_the_theory(n, gradient, threshold):
    """``⌊ρn/(ρ + |g| + b)⌋`` with b = 1, rounding to whole numbers aside."""
    grid = 2**30
    total, tau = round(gradient * n * grid), round(threshold * grid)
    rho = abs(abs(total) - tau * n)
    theory = rho // ((rho + abs(total)) // n + grid + 1)
    exact = int(removal_budget(np.array([total]), n, tau)[0])
    assert exact >= min(theory, n - 1) - (exact == n - 1)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 10}, {"threshold": -1}, {"samples": 0}, {"total": np.array([31])}, {"samples": 2**60}]
)
def test_arguments_out_of_range_are_refused(wrong):
    arguments = {"total": np.array([3]), "samples": 3, "threshold": 1, "grid": 10, **wrong}
    with pytest.raises(ValueError, match=r"\w"):
        removal_budget(**arguments)


@given(st.lists(st.integers(0, 6), min_size=1), st.floats(0.0, 1.0))
def test_the_counts_say_what_the_budgets_would(budgets, level):
    account = RemovalBudgets(7)
    for budget in budgets:
        account.add(np.array([budget]))
    account = RemovalBudgets(7, account.counts)
    assert account.minimum == min(budgets)
    assert account.quantile(level) == np.quantile(budgets, level, method="inverted_cdf")
    for removed in range(7):
        assert account.fraction(removed) == pytest.approx(np.mean(np.array(budgets) >= removed))
