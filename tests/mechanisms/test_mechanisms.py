"""Mechanisms: the promised ε is met, both ways round, and constants survive being written down."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.accounting import NoisyIteration
from erode.mechanisms import (
    BlockwiseMechanism,
    CNSMechanism,
    GradientClippingMechanism,
    ModelClippingMechanism,
    NoisySGDMechanism,
    OutputPerturbationMechanism,
    mechanism,
    published_sensitivity,
)

STEP = {"clip_norm": 1.0, "learning_rate": 0.01, "weight_decay": 0.5}
KINDS = [
    (GradientClippingMechanism, {**STEP, "steps": 30}),
    (ModelClippingMechanism, {"steps": 4}),
    (OutputPerturbationMechanism, {}),
    (CNSMechanism, {}),
    (BlockwiseMechanism, {**STEP, "steps": 30, "sizes": [3, 100, 7]}),
]
REFERENCES = ["retrained", "anchor", "noise"]


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(("kind", "constants"), KINDS)
@settings(deadline=None, max_examples=15)
@given(epsilon=st.floats(0.05, 20.0), log_delta=st.floats(-12, -3), radius=st.floats(1e-4, 1e2))
def test_calibrated_noise_gives_the_epsilon_asked_for(kind, constants, reference, epsilon, log_delta, radius):
    delta = 10**log_delta
    made = kind.from_target(epsilon, delta, None, reference=reference, radius=radius, **constants)
    reached = made.epsilon(delta)
    assert reached <= epsilon
    assert reached == pytest.approx(epsilon, rel=1e-5)
    assert made.delta(reached) <= delta * (1 + 1e-9)
    assert mechanism(made.constants()) == made


@pytest.mark.parametrize(("kind", "constants"), KINDS)
def test_either_epsilon_or_sigma(kind, constants):
    constants = {"reference": "anchor", "radius": 1.0, **constants}
    made = kind.from_target(None, 1e-5, 2.0, **constants)
    assert made.sigma == 2.0
    for epsilon, sigma in ((1.0, 2.0), (None, None)):
        with pytest.raises(ValueError, match="give either epsilon or sigma"):
            kind.from_target(epsilon, 1e-5, sigma, **constants)


@pytest.mark.parametrize(
    "wrong",
    [{"name": "wish"}, {"sigma": 0.0}, {"radius": -1.0}, {"steps": 2}, {"reference": "none"}, {"extra": 1.0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_constants_out_of_range_are_refused(wrong):
    constants = OutputPerturbationMechanism(reference="anchor", radius=1.0, sigma=1.0).constants()
    with pytest.raises(ValueError, match=r"\w"):
        mechanism({**constants, **wrong})


@pytest.mark.parametrize("decay", [0.0, 1e-4, 100.0])
@pytest.mark.parametrize("reference", REFERENCES)
def test_the_account_at_once_is_that_of_a_run_step_by_step(reference, decay):
    """A certificate holds the pieces that a run kept step by step, and a μ that comes from the constants."""
    made = GradientClippingMechanism(
        reference=reference, radius=5.0, clip_norm=1.0, learning_rate=1e-4, weight_decay=decay, steps=50_000, sigma=0.02
    )
    kept = NoisyIteration()
    for _ in range(made.steps):
        made.account_step(kept)
    assert made.pieces() == kept.blocks
    assert made.mu() == pytest.approx(kept.mu(made.initial_distance()), rel=1e-10)


@pytest.mark.parametrize(("kind", "constants"), [KINDS[0], KINDS[-1]])
def test_mechanisms_of_a_hundred_million_steps_are_made_in_no_time(kind, constants):
    steps = {"steps": 10**8 * len(constants.get("sizes", [1]))}
    began = time.process_time()
    made = kind.calibrated(1.0, 1e-7, reference="retrained", radius=5.0, **{**constants, "weight_decay": 1e-7, **steps})
    numbers = (made.mu(), made.final_noise(), made.displacement(), made.kept_radius(), made.epsilon(1e-7))
    assert time.process_time() - began < 0.2
    assert all(0 <= number < float("inf") for number in numbers)
    assert made.epsilon(1e-7) == pytest.approx(1.0, rel=1e-5)


def test_model_clipping_is_never_worse_than_its_last_step_alone():
    made = ModelClippingMechanism(reference="retrained", radius=1.0, sigma=2.0, steps=5)
    last = ModelClippingMechanism(reference="retrained", radius=1.0, sigma=2.0, steps=1)
    for epsilon in (0.1, 1.0, 4.0):
        assert made.delta(epsilon) <= last.delta(epsilon)
    assert made.mu() == pytest.approx(last.mu())


SHIFTS = {
    "gradient clipping": GradientClippingMechanism(reference="anchor", radius=2.0, sigma=0.3, steps=5, **STEP),
    "model clipping": ModelClippingMechanism(reference="anchor", radius=2.0, sigma=0.3, steps=5),
    "output perturbation": OutputPerturbationMechanism(reference="anchor", radius=2.0, sigma=0.3),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_no_other_linear_shrink_has_a_smaller_worst_case(name):
    """Monte Carlo of the whole process, the gradient always at the clip and outwards."""
    made, d, runs = SHIFTS[name], 20, 20_000
    random = np.random.default_rng(0)
    outwards = np.eye(d)[0]
    x = np.tile(made.radius * outwards, (runs, 1))
    for _ in range(made.steps):
        if isinstance(made, GradientClippingMechanism):
            x = x * (1 - made.learning_rate * made.weight_decay) + made.learning_rate * made.clip_norm * outwards
        elif isinstance(made, ModelClippingMechanism):
            x = np.tile(made.radius * outwards, (runs, 1))  # the projection's worst case
        x = x + made.sigma * random.standard_normal((runs, d))
    assert x[:, 1].std() == pytest.approx(made.final_noise(), rel=0.02)
    assert x[:, 0].mean() == pytest.approx(made.displacement(), rel=0.02)
    signal = made.displacement() * outwards
    best = made.shrinkage(d)
    error = {
        a: float(((a * x - signal) ** 2).sum(1).mean()) for a in (best, 0.9 * best, min(1.0, 1.1 * best), 1.0, 0.0)
    }
    assert error[best] == min(error.values())


# What is left after the last step ---------------------------------------------------------------------------------


def ball(kind, constants, **changed):
    return kind(**{"reference": "retrained", "radius": 1.5, "sigma": 0.2, **constants, **changed})


def simulate(made, start, d, rng, *, gradient=0.0, runs=200):
    """Runs of a mechanism around an anchor at 0, from ``start`` along the first axis, all gradients along it too."""
    x = np.zeros((runs, d))
    x[:, 0] = start
    for _ in range(made.steps):
        if isinstance(made, ModelClippingMechanism):
            x *= np.minimum(1, made.radius / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300))
        if isinstance(made, GradientClippingMechanism):
            x *= 1 - made.learning_rate * made.weight_decay
            x[:, 0] += made.learning_rate * gradient
        x += made.sigma * rng.standard_normal(x.shape)
    return x


def test_noise_and_way_of_gradient_clipping_are_those_of_its_worst_run():
    made = ball(GradientClippingMechanism, {"clip_norm": 2.0, "learning_rate": 0.1, "weight_decay": 1.0, "steps": 12})
    x = simulate(made, made.radius, 50, np.random.default_rng(0), gradient=made.clip_norm, runs=4000)
    assert x.std(axis=0) == pytest.approx(made.final_noise(), rel=0.06)
    assert x[:, 0].mean() == pytest.approx(made.displacement(), rel=0.02)
    still = simulate(made, made.radius, 50, np.random.default_rng(1), runs=4000)
    assert still[:, 0].mean() == pytest.approx(made.kept_radius(), rel=0.1)


def test_output_perturbation_keeps_the_ball_and_its_one_draw():
    made = ball(OutputPerturbationMechanism, {})
    assert (made.final_noise(), made.kept_radius(), made.displacement()) == (0.2, 1.5, 1.5)


def test_model_clipping_ends_in_its_ball_and_fresh_noise():
    made = ball(ModelClippingMechanism, {"steps": 6})
    assert (made.final_noise(), made.kept_radius(), made.displacement()) == (0.2, 1.5, 1.5)


@pytest.mark.parametrize(
    ("steps", "sigma", "start"), [(1, 0.05, None), (3, 0.05, None), (8, 0.02, None), (3, 0.02, 0.5)]
)
def test_what_model_clipping_leaves_of_the_start_is_what_runs_show(steps, sigma, start):
    """Each projection shrinks the start with the noise of the steps before: many steps leave nothing of it."""
    made, d = ball(ModelClippingMechanism, {"steps": steps, "sigma": sigma}), 2000
    signal, noise = made.signal_and_noise(d, start)
    x = simulate(made, made.radius if start is None else start, d, np.random.default_rng(0))
    assert x[:, 0].mean() == pytest.approx(signal, rel=0.02)
    x[:, 0] -= x[:, 0].mean()
    assert np.sqrt((x**2).sum(axis=1).mean()) == pytest.approx(noise, rel=0.01)


def test_closed_form_of_what_model_clipping_leaves():
    made, d = ball(ModelClippingMechanism, {"steps": 4}), 300
    rho = 1 / np.sqrt(1 + (made.sigma / made.radius) ** 2 * d)
    signal, noise = made.signal_and_noise(d)
    assert signal / noise == pytest.approx(rho**4 / np.sqrt(1 - rho**8))


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(-1e3, 0.0), st.floats(0.0, 1e3))
def test_the_published_sensitivity_of_a_loss_that_is_not_convex_is_never_below_the_diameter(
    radius, ridge, smallest, lipschitz
):
    published = published_sensitivity(radius, ridge, smallest, lipschitz)
    assert published is None or published >= 2 * radius * (1 - 1e-12)


def test_a_newton_step_from_the_anchor_may_end_anywhere_in_the_ball():
    distances = {
        reference: CNSMechanism(reference=reference, radius=3.0, sigma=1.0).initial_distance()
        for reference in REFERENCES
    }
    assert distances == {"retrained": 6.0, "anchor": 6.0, "noise": 3.0}


def test_a_decay_away_from_the_anchor_is_refused():
    with pytest.raises(ValueError, match="weight_decay must be a finite number >= 0"):
        GradientClippingMechanism(reference="anchor", radius=1.0, sigma=1.0, steps=2, **{**STEP, "weight_decay": -1.0})


@pytest.mark.parametrize("carried", [-1e-12, -0.3, float("nan"), float("inf")])
def test_noisy_sgd_carries_no_distance_that_is_below_zero_or_not_finite(carried):
    """It is added to what the process leaves, which would hide a negative one and lower the noise."""
    constants = {
        "reference": "retrained", "learning_rate": 0.5, "ridge": 0.01, "batches": 5, "batch_size": 10, "changed": 1,
        "trained_epochs": 20, "start": 0.5, "steps": 5,
    }  # fmt: skip
    assert NoisySGDMechanism.calibrated(1.0, 1e-7, carried=0.0, **constants).initial_distance() > 0.3
    with pytest.raises(ValueError, match="carried must be a finite number >= 0"):
        NoisySGDMechanism.calibrated(1.0, 1e-7, carried=carried, **constants)


def test_no_noise_gives_epsilon_zero():
    with pytest.raises(ValueError, match=r"epsilon = 0 asks for more than noise can give: .* exact unlearning"):
        GradientClippingMechanism.from_target(0.0, 1e-5, None, reference="anchor", radius=2.0, steps=5, **STEP)
