"""Gradient clipping: the automatic number of steps is the best one, and arguments mean what they say."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from erode.accounting import gradient_clipping_sigma, gradient_clipping_steps
from erode.callbacks import GradientClipping


def constants(reference, radius, weight_decay):
    return {
        "reference": reference, "radius": radius, "clip_norm": 1.0, "learning_rate": 0.1, "weight_decay": weight_decay,
    }  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["retrained", "anchor", "noise"]),
    st.floats(0.01, 10.0),
    st.one_of(st.just(0.0), st.floats(1e-3, 1.0)),
)
def test_no_other_number_of_steps_needs_less_noise_per_step(reference, radius, weight_decay):
    given_constants = constants(reference, radius, weight_decay)
    assume(weight_decay * radius < 0.45)  # else the noise falls for ever
    best = gradient_clipping_steps(**given_constants)
    sigma = {n: gradient_clipping_sigma(1.0, 1e-5, steps=n, **given_constants) for n in range(1, 2 * best + 10)}
    assert sigma[best] <= min(sigma.values()) * (1 + 1e-12)


def test_where_the_noise_falls_for_ever_a_number_is_asked_for():
    with pytest.raises(ValueError, match="give a number of steps"):
        gradient_clipping_steps(**constants("anchor", radius=3.0, weight_decay=1.0))


def test_epsilon_follows_from_sigma():
    asked = GradientClipping(epsilon=2.0, steps=7)
    by_hand = GradientClipping(epsilon=None, sigma=asked.mechanism.sigma, steps=7)
    assert by_hand.mechanism == asked.mechanism
    assert by_hand.mechanism.epsilon(1e-7) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": None}, {"sigma": 1.0}, {"delta": 0.0}, {"radius": 0.0}, {"clip_norm": -1.0}, {"steps": 0},
        {"learning_rate": 0.0}, {"weight_decay": 1e5}, {"reference": "nobody"}, {"epsilon": -1.0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        GradientClipping(**wrong)


def test_the_pure_noise_reference_needs_the_least_noise():
    sigma = {r: GradientClipping(reference=r, steps=10).mechanism.sigma for r in ("retrained", "anchor", "noise")}
    assert sigma["retrained"] > sigma["anchor"] > sigma["noise"]
    assert sigma["noise"] == pytest.approx(sigma["retrained"] / 2)
