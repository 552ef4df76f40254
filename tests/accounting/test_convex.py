"""Constants of the softmax, distances of minimisers and Newton steps: bounds that no draw breaks and some attain."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from erode.accounting import (
    SOFTMAX_HESSIAN_LIPSCHITZ,
    SOFTMAX_LIPSCHITZ,
    SOFTMAX_SMOOTHNESS,
    gdp_mu,
    newton_distance,
    newton_gradient,
    newton_sigma,
    residual_distance,
    residual_sigma,
)


def curvature(logits):
    """Hessian in the logits, ``[K, K]``."""
    p = softmax(logits)
    return np.diag(p) - np.outer(p, p)


def draw(seed, classes, features, samples):
    """Features in the unit ball and hard targets; every other feature vector on the sphere."""
    random = np.random.default_rng(seed)
    phi = random.normal(size=(samples, features))
    phi /= np.maximum(1, np.linalg.norm(phi, axis=1, keepdims=True))
    phi[::2] /= np.linalg.norm(phi[::2], axis=1, keepdims=True)
    return phi, np.eye(classes)[random.integers(classes, size=samples)]


def objective(weights, phi, targets, ridge):
    """Value, gradient and Hessian of the head, written down anew."""
    w = weights.reshape(targets.shape[1], -1)
    logits = phi @ w.T
    value = -(targets * log_softmax(logits, axis=1)).sum() / len(phi) + ridge / 2 * (w**2).sum()
    gradient = (softmax(logits, axis=1) - targets).T @ phi / len(phi) + ridge * w
    p = softmax(logits, axis=1)
    bends = np.einsum("nk,kl->nkl", p, np.eye(p.shape[1])) - np.einsum("nk,nl->nkl", p, p)
    hessian = np.einsum("nkl,nd,ne->kdle", bends, phi, phi).reshape(w.size, w.size) / len(phi)
    return value, gradient.ravel(), hessian + ridge * np.eye(w.size)


def minimiser(phi, targets, ridge):
    w = np.zeros(targets.shape[1] * phi.shape[1])
    for _ in range(25):
        value, gradient, hessian = objective(w, phi, targets, ridge)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while objective(w - scale * step, phi, targets, ridge)[0] > value + 1e-15 and scale > 1e-3:
            scale /= 2
        w = w - scale * step
    assert np.linalg.norm(objective(w, phi, targets, ridge)[1]) < 1e-12
    return w


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), st.integers(0, 10**6), st.floats(0.01, 5))
def test_no_draw_breaks_the_constants(classes, seed, spread):
    random = np.random.default_rng(seed)
    one, other = random.normal(scale=spread, size=(2, classes))
    p, q = softmax(one), random.dirichlet(np.full(classes, 0.2))
    assert np.linalg.norm(p - q) <= SOFTMAX_LIPSCHITZ
    assert np.linalg.norm(curvature(one), 2) <= SOFTMAX_SMOOTHNESS + 1e-12
    change = np.linalg.norm(curvature(one) - curvature(other), 2)
    assert change <= SOFTMAX_HESSIAN_LIPSCHITZ * np.linalg.norm(one - other) + 1e-12


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_a_search_attains_the_constants_and_goes_no_further(classes):
    def third_moment(x):
        p, u = softmax(x[:classes]), x[classes:] / np.linalg.norm(x[classes:])
        return p @ (u - p @ u) ** 3

    found = max(
        -minimize(lambda x: -third_moment(x), np.random.default_rng(seed).normal(size=2 * classes)).fun
        for seed in range(12)
    )
    assert found == pytest.approx(SOFTMAX_HESSIAN_LIPSCHITZ, rel=1e-3)
    assert found <= SOFTMAX_HESSIAN_LIPSCHITZ * (1 + 1e-9)
    assert np.linalg.norm(curvature(np.array([0.0, 0.0, *[-50.0] * (classes - 2)])), 2) == pytest.approx(0.5)


@settings(deadline=None, max_examples=10)
@given(
    classes=st.integers(2, 3), seed=st.integers(0, 10**6), ridge=st.floats(0.02, 1.0), changed=st.integers(1, 8),
    stopped=st.floats(0.0, 0.05), deletes=st.booleans(),
)  # fmt: skip
def test_a_newton_step_ends_within_its_distance(classes, seed, ridge, changed, stopped, deletes):
    """Deleted samples, and samples of other labels; from weights at which training stopped early."""
    samples = 16
    phi, targets = draw(seed, classes, 3, samples)
    start = minimiser(phi, targets, ridge)
    direction = np.random.default_rng(seed).normal(size=start.size)
    start = start + stopped * direction / np.linalg.norm(direction)
    residual = float(np.linalg.norm(objective(start, phi, targets, ridge)[1]))
    if deletes:
        phi, targets = phi[changed:], targets[changed:]
    else:
        targets[:changed] = np.roll(targets[:changed], 1, axis=1)
    _, gradient, hessian = objective(start, phi, targets, ridge)
    best = minimiser(phi, targets, ridge)
    bound = newton_gradient(samples=samples, changed=changed, residual=residual)
    assert np.linalg.norm(start - best) <= bound / ridge
    assert deletes or np.linalg.norm(gradient) <= bound
    ended = start - np.linalg.solve(hessian, gradient)
    distance = newton_distance(samples=samples, changed=changed, ridge=ridge, residual=residual)
    assert np.linalg.norm(ended - best) <= distance * (1 + 1e-9) + 1e-12


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), ridge=st.floats(1e-3, 1.0), reach=st.floats(1e-6, 1.0))
def test_two_stops_are_no_further_apart_than_two_tolerances(seed, ridge, reach):
    phi, targets = draw(seed, 3, 2, 12)
    best = minimiser(phi, targets, ridge)
    points = best + reach * np.random.default_rng(seed).normal(size=(2, best.size))
    tolerance = max(float(np.linalg.norm(objective(point, phi, targets, ridge)[1])) for point in points)
    for point in points:
        assert np.linalg.norm(point - best) <= residual_distance(tolerance=tolerance, ridge=ridge) * (1 + 1e-9)
    apart = residual_distance(tolerance=tolerance, ridge=ridge, reference="retrained")
    assert np.linalg.norm(points[0] - points[1]) <= apart * (1 + 1e-9)


def test_the_published_sensitivity_is_the_case_of_an_exact_minimiser():
    lipschitz, hessian = SOFTMAX_LIPSCHITZ, SOFTMAX_HESSIAN_LIPSCHITZ
    published = 2 * hessian * 7**2 * lipschitz**2 / (0.3**3 * 500**2)
    assert newton_distance(samples=500, changed=7, ridge=0.3) == pytest.approx(published)
    assert newton_distance(samples=500, changed=7, ridge=0.3, reference="retrained") == pytest.approx(published)


@pytest.mark.parametrize("epsilon", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("ridge", [1e-100, 1e-3, 1e3])
def test_noise_is_finite_over_a_wide_range(epsilon, ridge):
    sigma = residual_sigma(epsilon, 1e-12, tolerance=1e-9, ridge=ridge)
    assert sigma * gdp_mu(epsilon, 1e-12) == pytest.approx(1e-9 / ridge)
    assert 0 < newton_sigma(epsilon, 1e-12, samples=10**9, changed=1, ridge=ridge) < math.inf


@pytest.mark.parametrize(
    "wrong",
    [{"changed": 0}, {"changed": 11}, {"changed": 1.5}, {"ridge": 0.0}, {"residual": -1.0}, {"reference": "anchor"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_newton_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        newton_distance(**{"samples": 10, "changed": 1, "ridge": 0.1, **wrong})
