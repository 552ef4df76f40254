"""The published rules are valid where they claim to be, and looser than the exact conversion."""

import math

import numpy as np
import pytest

from erode.accounting import gdp_mu, gradient_clipping_sigma
from erode.accounting.published import classical_mu, koloskova_sigma, renyi_mu

DELTAS = [1e-3, 1e-5, 1e-7, 1e-10]


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5, 1.0])
def test_classical_gaussian_is_looser(epsilon, delta):
    assert classical_mu(epsilon, delta) < gdp_mu(epsilon, delta)


def test_classical_gaussian_loses_30_percent_at_1_and_is_refused_above():
    assert gdp_mu(1.0, 1e-5) / classical_mu(1.0, 1e-5) == pytest.approx(1.30, abs=0.005)
    with pytest.raises(ValueError, match="epsilon <= 1"):
        classical_mu(1.01, 1e-5)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.1, 1.0, 8.0, 100.0, 1e4])
def test_renyi_is_looser_even_at_its_best_order(epsilon, delta):
    orders = 1 + np.logspace(-4, 14, 40_001)
    slack = epsilon + (math.log(delta) + np.log(orders)) / (orders - 1) - np.log1p(-1 / orders)
    best = math.sqrt(2 * max(0.0, (slack / orders).max()))  # by enumeration
    assert renyi_mu(epsilon, delta) == pytest.approx(best, rel=1e-6)
    assert renyi_mu(epsilon, delta) < gdp_mu(epsilon, delta)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("steps", [1, 50, 2000])
def test_koloskova_is_looser(epsilon, delta, steps):
    setting = {"radius": 1.0, "clip_norm": 1.0, "learning_rate": 0.01, "steps": steps}
    exact = gradient_clipping_sigma(epsilon, delta, weight_decay=0.0, **setting)
    assert koloskova_sigma(epsilon, delta, **setting) > exact


@pytest.mark.parametrize(("delta", "limit"), [(1e-5, 11.0), (1e-7, 12.8)])
def test_koloskova_promises_too_much_beyond_its_limit(delta, limit):
    def ratio(epsilon: float) -> float:
        setting = {"radius": 1.0, "clip_norm": 1.0, "learning_rate": 0.01, "steps": 100}
        exact = gradient_clipping_sigma(epsilon, delta, weight_decay=0.0, **setting)
        return koloskova_sigma(epsilon, delta, **setting) / exact

    assert ratio(limit - 0.1) > 1 > ratio(limit + 0.1)
