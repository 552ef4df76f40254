"""The noise floor is met exactly or missed from below, and every remedy does what it says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import KINDS, floor, outlook

from erode.mechanisms import (
    OutputPerturbationMechanism,
)
from erode.mechanisms.outlook import (
    Outlook,
    Regime,
    cheapest,
    largest_d,
    remedies,
    smallest_epsilon,
    too_many_pixels,
    why_cheapest,
)

REFERENCES = st.sampled_from(["retrained", "anchor", "noise"])
EPSILONS, DIMENSIONS = st.floats(0.05, 500.0), st.integers(100, 10**9)


@settings(deadline=None, max_examples=30)
@given(EPSILONS, DIMENSIONS, REFERENCES, st.floats(1e-4, 1e2))
def test_output_perturbation_meets_the_bound(epsilon, d, reference, radius):
    made = outlook(epsilon=epsilon, d=d, reference=reference, radius=radius)
    assert made.ratio == pytest.approx(floor(epsilon, 1e-7, reference, d), rel=1e-8)
    assert made.bound == pytest.approx(made.ratio, rel=1e-8)


@settings(deadline=None, max_examples=60)
@given(
    EPSILONS, DIMENSIONS, REFERENCES, st.floats(1e-4, 1e2), st.integers(1, 40), st.floats(0, 10), st.floats(1e-5, 0.1),
    st.floats(0, 10),
)  # fmt: skip
def test_gradient_clipping_never_exceeds_it(epsilon, d, reference, radius, steps, clip_norm, learning_rate, decay):
    constants = {"steps": steps, "clip_norm": clip_norm, "learning_rate": learning_rate, "weight_decay": decay}
    made = outlook("gradient", epsilon=epsilon, d=d, reference=reference, radius=radius, **constants)
    assert made.ratio <= floor(epsilon, 1e-7, reference, d)


@settings(deadline=None, max_examples=60)
@given(EPSILONS, DIMENSIONS, REFERENCES, st.floats(1e-4, 1e2), st.integers(1, 40))
def test_model_clipping_never_exceeds_it(epsilon, d, reference, radius, steps):
    """Although its last step alone has less noise, the more steps it takes."""
    made = outlook("model", epsilon=epsilon, d=d, reference=reference, radius=radius, steps=steps)
    assert made.ratio <= floor(epsilon, 1e-7, reference, d)


def test_the_number_of_the_theory():
    """52,000 parameters, retrained, (1, 1e-5): six parts in ten thousand."""
    assert outlook(delta=1e-5).ratio == pytest.approx(5.9e-4, rel=0.01)


@pytest.mark.parametrize(
    ("ratio", "regime"),
    [(0.099, Regime.LOST), (0.101, Regime.PARTLY), (0.999, Regime.PARTLY), (1.001, Regime.SURVIVES)],
)
def test_regimes_by_ratio(ratio, regime):
    made = OutputPerturbationMechanism(reference="anchor", radius=ratio, sigma=0.1)
    assert Outlook(operator="", mechanism=made, epsilon=1.0, delta=1e-5, d=100).regime is regime


@pytest.mark.parametrize(("start", "regime"), [(1.0, Regime.SURVIVES), (4.0, Regime.PARTLY), (20.0, Regime.LOST)])
def test_a_start_of_which_the_ball_keeps_little_does_not_survive(start, regime):
    made = OutputPerturbationMechanism(reference="anchor", radius=1.0, sigma=0.01)
    found = Outlook(operator="", mechanism=made, epsilon=1.0, delta=1e-5, d=100, start=start)
    assert found.ratio == pytest.approx(10)
    assert found.kept == pytest.approx(1 / start)
    assert found.regime is regime
    if regime is not Regime.SURVIVES:
        said = " ".join(remedies(found))
        assert f"of the trained distance {start:.3g} are kept" in said
        assert "assumes a radius chosen without it" in said


def test_a_start_closer_than_the_radius_is_less_signal():
    assert outlook(start=0.25).ratio == pytest.approx(outlook().ratio / 4)
    assert outlook(start=4.0).ratio == outlook().ratio


def test_the_sentence_holds_numbers_and_regime():
    sentence = outlook("gradient").sentence()
    assert "52,000 exposed parameters" in sentence
    assert "the start will not survive: this is a re-initialisation; retrain exactly on the retain view" in sentence


def test_an_epsilon_that_promises_next_to_nothing_is_called_so():
    assert "delta = 1e-07 with" in outlook("gradient", epsilon=10.0).sentence()
    assert "which hardly promises anything, with" in outlook("gradient", epsilon=11.0).sentence()


@pytest.mark.parametrize("wrong", [{"d": 0}, {"start": 0.0}, {"start": float("nan")}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"at least 1|must differ from the anchor"):
        outlook(**wrong)


@pytest.mark.parametrize("name", KINDS)
def test_the_largest_d_is_the_largest(name):
    made = outlook(name, epsilon=400.0, reference="anchor")
    most = largest_d(made)
    assert most > 1
    ratios = [outlook(name, epsilon=400.0, reference="anchor", d=d).ratio for d in (most, most + 1)]
    assert ratios[0] >= 1 > ratios[1]


def test_at_a_small_epsilon_not_even_one_parameter_is_few_enough():
    assert largest_d(outlook(epsilon=1.0)) == 0
    assert "not even one" in remedies(outlook(epsilon=1.0))[0]


@pytest.mark.parametrize("name", KINDS)
def test_at_the_smallest_epsilon_the_ratio_is_one(name):
    epsilon = smallest_epsilon(outlook(name, d=1000))
    assert outlook(name, d=1000, epsilon=epsilon).ratio == pytest.approx(1.0, rel=1e-4)


def test_a_start_that_survives_needs_no_remedy():
    assert remedies(outlook(epsilon=1e4, d=100)) == []


def test_how_close_an_anchor_has_to_be():
    """At the radius that is named, noise and weights are equally long."""
    text = " ".join(remedies(outlook(radius=1.0), weights_norm=13.0))
    radius = float(text.partition("from a radius of ")[2].split()[0])
    assert outlook(radius=radius).noise == pytest.approx(13.0, rel=0.05)


def test_output_perturbation_is_the_cheapest():
    made = [outlook("gradient", evaluations=30.0), outlook("model", evaluations=3.0), outlook(evaluations=0.0)]
    assert cheapest(made) is made[2]
    assert why_cheapest(made).startswith("output needs the least noise at the same kept signal and no gradient")


def test_of_equal_noise_fewer_gradients_win():
    made = [outlook("model", steps=1, evaluations=1.0), outlook(evaluations=0.0), outlook(evaluations=None)]
    assert made[0].ratio == pytest.approx(made[1].ratio)
    assert cheapest(made) is made[1]
    assert cheapest([made[2], made[0]]) is made[0]


@given(st.floats(1e-12, 0.5), st.integers(1, 10**9))
def test_the_delta_that_is_advised_is_small_enough(delta, pixels):
    why = too_many_pixels(delta, pixels)
    assert (why is None) == (delta * pixels <= 0.01)
    if why is not None:
        assert too_many_pixels(float(why.rpartition("<= ")[2]), pixels) is None
