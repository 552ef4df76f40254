"""The calibrated noise meets the budget exactly, for each reference."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.accounting import (
    NoisyIteration,
    Reference,
    gdp_mu,
    gradient_clipping_sigma,
    gradient_shift,
    initial_distance,
    output_perturbation_sigma,
)
from erode.accounting.published import koloskova_sigma

REFERENCES = get_args(Reference)


@pytest.mark.parametrize(
    ("reference", "distance", "shift"), [("retrained", 6, 0.4), ("anchor", 3, 0.4), ("noise", 3, 0.2)]
)
def test_table_of_the_theory(reference, distance, shift):
    assert initial_distance(reference, radius=3) == distance
    assert gradient_shift(reference, clip_norm=2, learning_rate=0.1) == pytest.approx(shift)


@given(
    st.sampled_from(REFERENCES),
    st.floats(0, 10),
    st.floats(0.01, 10),
    st.floats(1e-4, 1),
    st.sampled_from([0.0, 1e-12, 1e-3, 0.1, 0.5, 1.0]),
    st.integers(1, 400),
)
@settings(deadline=None, max_examples=100)
def test_step_by_step_account_of_the_calibrated_noise_is_the_budget(reference, radius, clip, rate, decay, steps):
    sigma = gradient_clipping_sigma(
        1.0,
        1e-7,
        radius=radius,
        clip_norm=clip,
        learning_rate=rate,
        weight_decay=decay,
        steps=steps,
        reference=reference,
    )
    account = NoisyIteration()
    for _ in range(steps):
        account.step(contraction=1 - rate * decay, shift=gradient_shift(reference, clip, rate), sigma=sigma)
    assert account.mu(initial_distance(reference, radius)) == pytest.approx(gdp_mu(1.0, 1e-7), rel=1e-9)


@pytest.mark.parametrize(("reference", "less"), [("retrained", 1.36), ("noise", 2.73)])
@pytest.mark.parametrize("steps", [1, 30, 1000])
def test_noise_saved_against_the_published_rule(reference, less, steps):
    setting = {"radius": 1.0, "clip_norm": 2.0, "learning_rate": 0.01, "steps": steps}
    ours = gradient_clipping_sigma(1.0, 1e-5, weight_decay=0.0, reference=reference, **setting)
    assert koloskova_sigma(1.0, 1e-5, **setting) / ours == pytest.approx(less, abs=0.005)


@given(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0, 100), st.integers(1, 300), st.sampled_from(REFERENCES))
@settings(deadline=None, max_examples=100)
def test_final_noise_is_never_below_output_perturbation_of_the_shrunk_weights(radius, clip, decay, steps, reference):
    rate = 0.01
    sigma = gradient_clipping_sigma(
        1.0,
        1e-5,
        radius=radius,
        clip_norm=clip,
        learning_rate=rate,
        weight_decay=decay,
        steps=steps,
        reference=reference,
    )
    shrink = (1 - rate * decay) ** np.arange(steps + 1)
    final = sigma * np.linalg.norm(shrink[:-1])
    one = output_perturbation_sigma(1.0, 1e-5, radius=radius * shrink[-1], reference=reference)
    assert final >= one * (1 - 1e-9)


def test_one_gaussian_hides_its_distance_and_no_more():
    """Exact trade-off of two shifted Gaussians, against simulation: δ is the best test's advantage at ε."""
    rng, runs = np.random.default_rng(0), 2_000_000
    sigma = output_perturbation_sigma(1.0, 0.01, radius=1.0, reference="anchor")
    threshold = 0.5 + sigma**2  # log likelihood ratio of N(1, σ²) to N(0, σ²) above ε = 1
    hit = np.mean(1 + sigma * rng.standard_normal(runs) > threshold)
    false = np.mean(sigma * rng.standard_normal(runs) > threshold)
    assert hit - np.e * false == pytest.approx(0.01, abs=6e-4)


def test_wrong_values_are_named():
    good = {"radius": 1.0, "clip_norm": 1.0, "learning_rate": 0.1, "weight_decay": 0.0, "steps": 10}
    wrong = {
        "radius": -1.0,
        "clip_norm": float("nan"),
        "weight_decay": 11.0,
        "steps": 0,
        "reference": "random",
    }
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            gradient_clipping_sigma(1.0, 1e-5, **(good | {name: value}))
