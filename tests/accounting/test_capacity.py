"""Deletion capacity: the largest m, within its rates; the excess risk is a bound that simulation stays below."""

import numpy as np
import pytest
from scipy.special import logsumexp

from erode.accounting import (
    curvature_excess_risk,
    deletion_capacity,
    newton_capacity_rate,
    newton_distance,
    newton_sigma,
    privacy_capacity_rate,
    softmax_excess_risk,
)

HEAD = {"num_classes": 3, "ridge": 0.02, "parameters": 12}


def bound(sigma, distance):
    return softmax_excess_risk(sigma, distance=distance, **HEAD)


def capacity(epsilon=1.0, samples=20_000):
    return deletion_capacity(epsilon, 1e-7, samples=samples, ridge=HEAD["ridge"], excess_risk=bound)


def test_it_is_the_largest_that_fits():
    found = capacity()
    assert found > 1
    for changed, fits in ((found, True), (found + 1, False)):
        sigma = newton_sigma(1.0, 1e-7, samples=20_000, changed=changed, ridge=0.02)
        assert (bound(sigma, newton_distance(samples=20_000, changed=changed, ridge=0.02)) <= 0.01) == fits


def test_it_grows_as_its_rate_in_samples_and_in_epsilon():
    assert capacity(samples=10**7) / capacity(samples=10**6) == pytest.approx(10, rel=0.01)
    large = {"samples": 10**8}
    # μ is linear in ε for small ε only up to a slowly moving factor, so the exponent 1/2 is approximate.
    assert capacity(2.0, **large) / capacity(1.0, **large) == pytest.approx(2**0.5, rel=0.05)


def test_nothing_and_everything():
    assert capacity(samples=10) == 0
    assert deletion_capacity(1.0, 1e-7, samples=10, ridge=1e6, excess_risk=bound) == 10


def test_the_newton_rate_is_above_that_of_privacy_where_the_head_is_large():
    for parameters in (10, 1000):
        setting = {"samples": 10**5, "parameters": parameters}
        assert newton_capacity_rate(0.5, 1e-7, **setting) > privacy_capacity_rate(0.5, 1e-7, **setting)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0])
def test_simulated_excess_stays_below_the_bound(sigma):
    random = np.random.default_rng(0)
    phi = random.normal(size=(50, 4))
    phi /= np.linalg.norm(phi, axis=1, keepdims=True)
    labels = random.integers(3, size=50)

    def value(w):  # [runs, 3, 4]
        logits = np.einsum("nd,rkd->rnk", phi, w)
        loss = (logsumexp(logits, axis=2) - logits[:, np.arange(50), labels]).mean(1)
        return loss + HEAD["ridge"] / 2 * (w**2).sum((1, 2))

    start = np.zeros((1, 3, 4))
    noise = random.normal(size=(4_000, 3, 4)) * sigma
    # The mirrored draw takes away the slope at a point that is no minimiser: only the curvature is left.
    excess = (value(start + noise) + value(start - noise)) / 2 - value(start)
    assert excess.mean() - 4 * excess.std() / len(excess) ** 0.5 <= bound(sigma, 0.0)
    assert excess.mean() > 0.3 * bound(sigma, 0.0) or sigma > 1


def test_excess_by_curvature_is_exact_where_the_objective_is_quadratic():
    random = np.random.default_rng(1)
    root = random.normal(size=(5, 5))
    hessian = root @ root.T
    values, vectors = np.linalg.eigh(hessian)
    away = 0.3 * vectors[:, -1]  # the worst direction
    noise = random.normal(size=(200_000, 5)) * 0.2
    excess = np.einsum("ri,ij,rj->r", away + noise, hessian, away + noise) / 2
    expected = curvature_excess_risk(0.2, distance=0.3, trace=np.trace(hessian), largest=values[-1])
    assert excess.mean() == pytest.approx(expected, abs=4 * excess.std() / len(excess) ** 0.5)
