"""Projected noisy SGD: the distances are attained, the account is the lemma's, the published rule asks for more."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.accounting import (
    NoisyIteration,
    gdp_delta,
    gdp_mu,
    pnsgd_distance,
    pnsgd_epochs,
    pnsgd_hidden,
    pnsgd_sigma,
)
from erode.accounting.published import chien_sigma

SETTING = {"learning_rate": 0.5, "ridge": 0.1, "lipschitz": 1.5, "samples": 40, "batch_size": 10}
N = 11_264
RIDGE = 1e-6 * N
PUBLISHED = {"learning_rate": 1 / (0.25 + RIDGE), "ridge": RIDGE}


def simulate(changed, epochs, start=0.0):
    """Distance of two runs in one dimension whose last batch pushes apart with the whole force, step by step."""
    gap = start
    for _ in range(epochs):
        for batch in range(4):
            gap *= 1 - 0.5 * 0.1
            gap += 2 * 0.5 * 1.5 * changed / 10 * (batch == 3)
    return gap


@pytest.mark.parametrize(
    ("changed", "epochs", "start"), [(1, 1, 0.0), (3, 7, 0.0), (2, 4, 5.0), (0, 3, 1.0), (1, 0, 2)]
)
def test_the_distance_is_that_of_the_worst_runs(changed, epochs, start):
    found = pnsgd_distance(**SETTING, changed=changed, epochs=epochs, start=start)
    assert found == pytest.approx(simulate(changed, epochs, start))


def test_the_stationary_limit_is_the_published_distance():
    limit = 2 * 0.5 * 1.5 / (10 * (1 - 0.95**4))
    assert pnsgd_distance(**SETTING) == pytest.approx(limit)
    assert pnsgd_distance(**SETTING, epochs=1000, start=9.0) == pytest.approx(limit)


def test_sequential_requests_add_what_the_earlier_ones_left():
    """Request 1 changes one loss after 3 epochs and takes 2 epochs, request 2 changes two others after these 5."""
    first, second = (pnsgd_distance(**SETTING, changed=m, epochs=e) for m, e in ((1, 3), (2, 5)))
    gap = 0.0
    for epoch in range(5):
        for batch in range(4):
            changed = (2 + (epoch < 3)) * (batch == 3)
            gap = gap * 0.95 + 2 * 0.5 * 1.5 * changed / 10
    assert gap == pytest.approx(first * 0.95**8 + second)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(1e-9, 1.0), st.integers(1, 300), st.floats(1e-6, 1e6), st.floats(0.01, 10.0),
)  # fmt: skip
def test_the_closed_form_is_the_lemma(decay, steps, distance, sigma):
    account = NoisyIteration()
    for _ in range(steps):
        account.step(contraction=1 - decay, shift=0.0, sigma=sigma)
    hidden = pnsgd_hidden(distance=distance, learning_rate=1.0, ridge=decay, steps=steps)
    assert hidden / sigma == pytest.approx(account.mu(distance), rel=1e-6, abs=1e-290)


@pytest.mark.parametrize(("batch_size", "ratio"), [(32, 6.7), (128, 6.7), (512, 6.2), (N, 1.9)])
def test_noise_below_the_published_rule(batch_size, ratio):
    setting = {**PUBLISHED, "lipschitz": 1.0, "samples": N, "batch_size": batch_size}
    distance, steps = pnsgd_distance(**setting), N // batch_size
    ours = pnsgd_sigma(1.0, 1 / N, distance=distance, **PUBLISHED, steps=steps) / math.sqrt(
        2 * PUBLISHED["learning_rate"]
    )
    found = chien_sigma(1.0, 1 / N, **setting, epochs=1) / ours
    assert math.floor(found * 10) / 10 == ratio
    assert 1 - PUBLISHED["learning_rate"] * RIDGE == pytest.approx(0.957, abs=5e-4)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 4.0, 50.0])
def test_the_published_rule_by_enumeration_of_orders(epsilon):
    setting = {**PUBLISHED, "lipschitz": 1.0, "samples": N, "batch_size": 512}
    sigma, eta = chien_sigma(epsilon, 1e-5, **setting, epochs=1), PUBLISHED["learning_rate"]
    slope = pnsgd_distance(**setting) ** 2 / (2 * eta * sigma**2) * (1 - eta * RIDGE) ** (2 * 22)
    orders = [1 + 10 ** (k / 1000) for k in range(-3000, 5000)]
    assert min(a * slope - math.log(1e-5) / (a - 1) for a in orders) == pytest.approx(epsilon, rel=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 20.0), st.floats(1e-3, 10.0), st.floats(1e-4, 1.0))
def test_the_fewest_epochs_are_enough_and_one_less_is_not(epsilon, sigma, distance):
    process = {"learning_rate": 0.5, "ridge": 0.1}
    found = pnsgd_epochs(epsilon, 1e-5, distance=distance, **process, batches=4, sigma=sigma)
    for epochs in {found, max(1, found - 1)}:
        mu = pnsgd_hidden(distance=distance, **process, steps=4 * epochs) / sigma
        assert (gdp_delta(mu, epsilon) <= 1e-5 * (1 + 1e-9)) == (epochs == found)


def test_noise_is_finite_over_the_whole_range():
    for decay in (1e-12, 0.5, 1.0):
        for steps in (1, 10**6):
            sigma = pnsgd_sigma(1.0, 1e-7, distance=1e-3, learning_rate=1.0, ridge=decay, steps=steps)
            assert 0 <= sigma < math.inf
    tiny = pnsgd_sigma(1.0, 1e-7, distance=1.0, learning_rate=1e-12, ridge=1e-3, steps=100)
    assert tiny == pytest.approx(1 / math.sqrt(100) / gdp_mu(1.0, 1e-7))
    with pytest.raises(ValueError, match="more than 1000000 epochs"):
        pnsgd_epochs(1.0, 1e-7, distance=1.0, learning_rate=1e-9, ridge=1e-9, batches=1, sigma=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 11.0}, {"ridge": 0.0}, {"batch_size": 41}, {"changed": -1}, {"epochs": -1}, {"start": -1.0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        pnsgd_distance(**{**SETTING, **wrong})
