"""The conversion is exact: against 400 digits, an independent accountant and itself inverted."""

import math
import random

import dp_accounting
import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.accounting import gdp_delta, gdp_epsilon, gdp_mu


def exact_delta(mu: float, epsilon: float) -> mpmath.mpf:
    """The textbook formula, at 400 digits."""
    mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)

    def tail(x: mpmath.mpf) -> mpmath.mpf:
        return mpmath.erfc(x / mpmath.sqrt(2)) / 2

    return tail(epsilon / mu - mu / 2) - mpmath.exp(epsilon) * tail(epsilon / mu + mu / 2)


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log10(low), math.log10(high)).map(lambda exponent: 10**exponent)


EPSILONS, DELTAS, MUS = log_uniform(1e-6, 1e4), log_uniform(1e-300, 0.5), log_uniform(1e-8, 150)


@pytest.mark.parametrize(
    ("epsilon", "mu"),
    [(0.1, 0.03252), (0.5, 0.14221), (1, 0.26805), (2, 0.50155), (4, 0.92493), (8, 1.66603)],
)
def test_published_values(epsilon, mu):
    assert gdp_mu(epsilon, 1e-5) == pytest.approx(mu, abs=5e-6)


def test_delta_and_mu_agree_with_400_digits():
    draw = random.Random(0)
    with mpmath.workdps(400):
        for _ in range(150):
            epsilon, delta = 10 ** draw.uniform(-6, 4), 10 ** draw.uniform(-300, -0.01)
            mu = gdp_mu(epsilon, delta)
            exact = exact_delta(mu, epsilon)
            assert float(abs(gdp_delta(mu, epsilon) / exact - 1)) < 2e-12
            assert float(abs(exact / mpmath.mpf(delta) - 1)) < 2e-12


@pytest.mark.parametrize("mu", [1e-9, 1e-3, 0.5, 1.0, 3.0, 60.0])
def test_every_branch_of_delta_agrees_with_400_digits(mu):
    for a in (-30.0, -1.0001, -0.9999, -0.3, 0.0, 2.99, 3.01, 20.0):
        epsilon = max(0.0, mu * (a + mu / 2))
        with mpmath.workdps(400):
            assert gdp_delta(mu, epsilon) == pytest.approx(float(exact_delta(mu, epsilon)), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_agrees_with_dp_accounting(sigma, delta):
    epsilon = dp_accounting.get_epsilon_gaussian(sigma, delta)
    assert gdp_epsilon(1 / sigma, delta) == pytest.approx(epsilon, rel=1e-7)
    assert 1 / gdp_mu(epsilon, delta) == pytest.approx(dp_accounting.get_sigma_gaussian(epsilon, delta), rel=1e-7)


@given(EPSILONS, DELTAS)
@settings(deadline=None, max_examples=200)
def test_delta_comes_back(epsilon, delta):
    assert gdp_delta(gdp_mu(epsilon, delta), epsilon) == pytest.approx(delta, rel=1e-9)


@given(EPSILONS, log_uniform(1e-300, 1e-3))
@settings(deadline=None, max_examples=200)
def test_epsilon_comes_back(epsilon, delta):
    assert gdp_epsilon(gdp_mu(epsilon, delta), delta) == pytest.approx(epsilon, rel=1e-9)


@given(MUS, DELTAS)
@settings(deadline=None, max_examples=200)
def test_mu_comes_back_wherever_delta_alone_is_not_enough(mu, delta):
    epsilon = gdp_epsilon(mu, delta)
    if epsilon == 0:
        assert gdp_delta(mu, 0) <= delta * (1 + 1e-12)
    else:
        assert gdp_mu(epsilon, delta) == pytest.approx(mu, rel=1e-9)


@given(MUS, MUS, EPSILONS, EPSILONS, DELTAS, DELTAS)
@settings(deadline=None, max_examples=200)
def test_everything_is_monotone(mu_1, mu_2, epsilon_1, epsilon_2, delta_1, delta_2):
    (mu_1, mu_2), (epsilon_1, epsilon_2) = sorted([mu_1, mu_2]), sorted([epsilon_1, epsilon_2])
    delta_1, delta_2 = sorted([delta_1, delta_2])
    more = 1 + 1e-11  # rounding
    assert gdp_delta(mu_1, epsilon_1) <= gdp_delta(mu_2, epsilon_1) * more
    assert gdp_delta(mu_1, epsilon_2) <= gdp_delta(mu_1, epsilon_1) * more
    assert gdp_mu(epsilon_1, delta_1) <= gdp_mu(epsilon_2, delta_1) * more
    assert gdp_mu(epsilon_1, delta_1) <= gdp_mu(epsilon_1, delta_2) * more
    assert gdp_epsilon(mu_1, delta_1) <= gdp_epsilon(mu_2, delta_1) * more
    assert gdp_epsilon(mu_1, delta_2) <= gdp_epsilon(mu_1, delta_1) * more


def test_limits_are_those_of_the_formula():
    assert gdp_delta(0, 1) == 0 == gdp_epsilon(0, 1e-5)
    assert gdp_delta(math.inf, 1) == 1
    assert gdp_epsilon(math.inf, 1e-5) == math.inf
    assert gdp_delta(1e-3, 1e4) == 0
    assert gdp_delta(1.0, 0) == pytest.approx(math.erf(0.5 / math.sqrt(2)))  # total variation
    assert gdp_delta(gdp_mu(0, 1e-5), 0) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (gdp_delta, (-1, 1), "mu"),
        (gdp_delta, (math.nan, 1), "mu"),
        (gdp_delta, (1, -1), "epsilon"),
        (gdp_epsilon, (1, 0), "delta"),
        (gdp_mu, (math.inf, 1e-5), "epsilon"),
        (gdp_mu, (1, 1), "delta"),
    ],
)
def test_wrong_values_are_named(function, arguments, named):
    with pytest.raises(ValueError, match=f"^{named} must"):
        function(*arguments)
