"""Model clipping: the recursion bounds the true divergence, and its inverse finds the noise."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from erode.accounting import (
    contraction_steps,
    gdp_delta,
    gdp_mu,
    model_clipping_delta,
    model_clipping_sigma,
)


@pytest.mark.parametrize(("ratio", "steps"), [(0.2, 1), (2, 6), (2.5, 9), (3.9, 36)])
def test_published_step_counts(ratio, steps):
    assert contraction_steps(1.0, 1e-5, radius=ratio / 2, sigma=1.0) == steps


@given(st.floats(0, 8), st.floats(0.05, 8), st.integers(1, 20), st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_never_worse_than_the_last_step_alone_nor_than_fewer_steps(epsilon, ratio, steps, initial_delta):
    setting = {"radius": ratio / 2, "sigma": 1.0, "initial_delta": initial_delta}
    deltas = [model_clipping_delta(epsilon, steps=t, **setting) for t in range(1, steps + 1)]
    assert deltas[0] <= gdp_delta(ratio, epsilon) * (1 + 1e-9)
    assert all(later <= earlier for earlier, later in pairwise(deltas))


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_bounds_the_true_divergence_of_a_projected_chain(epsilon, steps):
    """A one-dimensional chain solved on a grid: starts at ±1, identity step, projection to [-1, 1], noise."""
    sigma, grid = 1.2, np.linspace(-9, 9, 1801)
    width = grid[1] - grid[0]
    kernel = norm.pdf(grid[None, :], loc=np.clip(grid, -1, 1)[:, None], scale=sigma)
    p, q = norm.pdf(grid, 1, sigma), norm.pdf(grid, -1, sigma)
    for _ in range(steps - 1):
        p, q = p @ kernel * width, q @ kernel * width
    true = np.maximum(p - np.exp(epsilon) * q, 0).sum() * width
    bound = model_clipping_delta(epsilon, radius=1.0, sigma=sigma, steps=steps)
    assert true <= bound + 1e-4
    if steps == 1:
        assert true == pytest.approx(bound, abs=1e-4)  # one step attains it


@given(st.floats(1e-3, 20), st.floats(-12, -2), st.integers(1, 60), st.floats(0.1, 10))
@settings(deadline=None, max_examples=50)
def test_calibrated_noise_meets_the_budget_and_no_less_does(epsilon, exponent, steps, radius):
    delta = 10**exponent
    sigma = model_clipping_sigma(epsilon, delta, radius=radius, steps=steps)
    reached = model_clipping_delta(epsilon, radius=radius, sigma=sigma, steps=steps)
    assert reached == pytest.approx(delta, rel=1e-6)
    assert contraction_steps(epsilon, delta, radius=radius, sigma=0.99 * sigma) > steps


def test_more_steps_need_less_noise():
    sigmas = [model_clipping_sigma(1.0, 1e-7, radius=1.0, steps=steps) for steps in (1, 2, 5, 20, 100)]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] == pytest.approx(2 / gdp_mu(1.0, 1e-7))


def test_the_pure_noise_reference_needs_the_last_draw_alone():
    of = {
        r: model_clipping_sigma(1.0, 1e-7, radius=1.0, steps=3, reference=r) for r in ("retrained", "anchor", "noise")
    }
    assert of["retrained"] == of["anchor"]
    assert of["noise"] == pytest.approx(1 / gdp_mu(1.0, 1e-7))


def test_a_noised_start_helps():
    setting = {"radius": 1.0, "sigma": 1.0, "steps": 3}
    noised = model_clipping_delta(1.0, initial_delta=gdp_delta(2.0, 1.0), **setting)
    assert noised == pytest.approx(model_clipping_delta(1.0, **(setting | {"steps": 4})))


def test_hopeless_noise_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="raise sigma"):
        contraction_steps(1.0, 1e-5, radius=10.0, sigma=1.0)


@pytest.mark.parametrize(("name", "value"), [("radius", 0.0), ("sigma", -1.0), ("steps", 0), ("initial_delta", 2.0)])
def test_wrong_values_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        model_clipping_delta(1.0, **({"radius": 1.0, "sigma": 1.0, "steps": 2} | {name: value}))
