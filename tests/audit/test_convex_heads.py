"""Convex heads: two neighbouring runs, many times over, obey the bound; where it is tight, they reach it.

As in ``test_tight_case``, one parameter of 100,000 coordinates is 100,000 independent runs in one dimension.
"""

import math

import pytest
import torch
from scipy import stats
from scipy.special import expit

from erode.accounting import SOFTMAX_LIPSCHITZ, gdp_epsilon
from erode.callbacks import NewtonStep, ProjectedNoisySGD, ResidualCertificate
from erode.callbacks.noise.keyed_noise import KeyedNoise
from erode.mechanisms import NoisySGDMechanism
from erode.ridge import HeadPixels, RidgeObjective, minimise, noisy_sgd

RUNS = 100_000
CONFIDENCE = 0.95
MU, DELTA = 1.0, 1e-5
EPSILON = gdp_epsilon(MU, DELTA)


def lower_bound(high, low):
    """Lower confidence bound on μ of the threshold test halfway, by exact binomial intervals on both error rates."""
    threshold = (high.mean() + low.mean()) / 2
    errors = [int((low > threshold).sum()), int((high <= threshold).sum())]
    upper = [stats.beta.ppf(1 - (1 - CONFIDENCE) / 2, k + 1, RUNS - k) for k in errors]
    return stats.norm.isf(upper[0]) - stats.norm.ppf(upper[1])


def released(operator, point, secret):
    """``point`` with the operator's own noise, once for each run."""
    operator._noise, operator._taken = KeyedNoise(secret), 0
    return operator.add_noise(torch.full((RUNS,), float(point), dtype=torch.float64))


def objective(labels, ridge, features=1.0):
    """Images of one pixel each with one feature; labels are probabilities of class 1."""
    count = len(labels)
    targets = torch.tensor([[1 - y, y] for y in labels])
    atoms = HeadPixels(torch.full((count, 1), features), targets, torch.ones(count), torch.ones(count).long())
    return RidgeObjective([atoms], [count], ridge)


@pytest.mark.parametrize("reference", ["minimiser", "retrained"])
def test_the_residual_certificate_is_tight_where_only_the_ridge_bends(reference):
    """Without features the objective is λ‖w‖²/2: two searches that stop at τ from the two sides."""
    operator = ResidualCertificate(epsilon=EPSILON, delta=DELTA, tolerance=0.1, ridge=0.5, reference=reference)
    flat = objective([1.0, 0.0], ridge=0.5, features=0.0)
    starts = [torch.tensor([[side], [0.0]]).double() * 0.1 / 0.5 for side in (1.0, -1.0)]
    ends = [minimise(flat, start, 0.1 + 1e-12)[0][0, 0] for start in starts]  # both may stop where they are
    assert ends[0] - ends[1] == pytest.approx(2 * 0.1 / 0.5)
    far = ends[1] if reference == "retrained" else 0.0
    bound = lower_bound(released(operator, ends[0], b"one"), released(operator, far, b"two"))
    assert 0.9 * MU <= bound <= MU


@pytest.mark.parametrize("changed", [1, 3])
def test_newton_steps_of_two_neighbours_obey_the_bound(changed):
    """From the head of all labels to that of the retained ones, along the only direction that matters."""
    samples, ridge = 20, 0.1
    before, after = [1.0] * 12 + [0.0] * 8, [1.0] * (12 - changed) + [0.0] * (8 + changed)
    operator = NewtonStep(samples, changed, epsilon=EPSILON, delta=DELTA, ridge=ridge, residual=1e-12)
    start = minimise(objective(before, ridge), torch.zeros(2, 1).double(), 1e-13)[0]
    retained = objective(after, ridge)
    step = start - retained.newton_direction(start, retained.gradient(start))
    best = minimise(retained, torch.zeros(2, 1).double(), 1e-13)[0]
    logit = float(best[1] - best[0])  # an independent look at the minimiser: λ logit = 2 (mean label - p)
    assert ridge * logit == pytest.approx(2 * (sum(after) / samples - expit(logit)), abs=1e-9)
    gap = float((step - best).norm())
    assert 0 < gap <= operator.mechanism.initial_distance()
    bound = lower_bound(released(operator, gap, b"one"), released(operator, 0.0, b"two"))
    assert bound <= MU * gap / operator.mechanism.initial_distance() <= MU


def process(mechanism, sigma, pushes, epochs, start, secret, radius=1e3):
    """All runs of noisy SGD whose batch b pushes with ``pushes[b]``, learnt from ``start``."""
    noise, drawn = KeyedNoise(secret), 0

    def add_noise(weights):
        nonlocal drawn
        drawn += 1
        return weights + sigma * noise.draw([weights], drawn)[0]

    return noisy_sgd(
        lambda batch, weights: mechanism.ridge * weights - pushes[batch],
        torch.full((RUNS,), float(start), dtype=torch.float64),
        batches=len(pushes), epochs=epochs, learning_rate=mechanism.learning_rate, radius=radius * math.sqrt(RUNS),
        add_noise=add_noise,
    )  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("trained", [1, 8])
def test_noisy_sgd_obeys_the_bound_and_reaches_the_distance(epochs, trained):
    """Learnt, converged or not, on data of which the last batch differs; then unlearnt on the same data."""
    batches, batch_size = 4, 5
    mechanism = NoisySGDMechanism.calibrated(
        EPSILON, DELTA, reference="retrained", learning_rate=0.5, ridge=0.1, batches=batches, batch_size=batch_size,
        changed=1, trained_epochs=trained, start=0.0, carried=0.0, steps=epochs * batches,
    )  # fmt: skip
    push = SOFTMAX_LIPSCHITZ / batch_size
    ends = []
    for side, secret in ((1, b"one"), (-1, b"two")):
        learnt = process(mechanism, 1e-9, [0.0, 0.0, 0.0, side * push], trained, 0.0, secret)
        noise = mechanism.sigma
        ends.append(process(mechanism, noise, [0.0] * 4, epochs, learnt.mean(), secret + b"!"))
        assert abs(float(learnt.mean())) == pytest.approx(mechanism.initial_distance() / 2, rel=1e-6)
    assert 0.9 * MU <= lower_bound(*ends) <= MU


def test_noise_of_the_learning_only_hides_more():
    mechanism = NoisySGDMechanism.calibrated(
        EPSILON, DELTA, reference="retrained", learning_rate=0.5, ridge=0.1, batches=2, batch_size=5, changed=1,
        trained_epochs=6, start=0.0, carried=0.0, steps=2,
    )  # fmt: skip
    push, ends = SOFTMAX_LIPSCHITZ / 5, []
    for side, secret in ((1, b"one"), (-1, b"two")):
        pushes = [0.0, side * push]
        noise, drawn = KeyedNoise(secret), [0]

        def add_noise(weights, noise=noise, drawn=drawn):
            drawn[0] += 1
            return weights + mechanism.sigma * noise.draw([weights], drawn[0])[0]

        weights = torch.zeros(RUNS, dtype=torch.float64)
        for data, epochs in ((pushes, 6), ([0.0, 0.0], 1)):
            weights = noisy_sgd(
                lambda batch, w, data=data: 0.1 * w - data[batch], weights, batches=2, epochs=epochs,
                learning_rate=0.5, radius=1e6, add_noise=add_noise,
            )  # fmt: skip
        ends.append(weights)
    assert 0.3 * MU < lower_bound(*ends) < MU


def test_any_start_within_the_ball_is_hidden():
    operator = ProjectedNoisySGD(
        samples=8,
        changed=1,
        epsilon=EPSILON,
        delta=DELTA,
        epochs=3,
        learning_rate=0.5,
        ridge=0.1,
        batch_size=4,
        radius=2.0,
    )
    ends = [
        process(operator.mechanism, operator.mechanism.sigma, [0.0, 0.0], 3, start, secret, radius=2.0)
        for start, secret in ((1e3, b"one"), (-1e3, b"two"))
    ]
    # Later projections of the whole vector act on all runs at once; they shrink, so the bound holds with less.
    assert 0.5 * MU <= lower_bound(*ends) <= MU


@pytest.mark.parametrize("mutation", ["half the noise", "one request not counted"])
def test_the_audit_catches(mutation):
    mechanism = NoisySGDMechanism.calibrated(
        EPSILON, DELTA, reference="retrained", learning_rate=0.5, ridge=0.1, batches=4, batch_size=5, changed=1,
        trained_epochs=8, start=0.0, carried=0.0, steps=4,
    )  # fmt: skip
    push = SOFTMAX_LIPSCHITZ / 5 * (2 if mutation == "one request not counted" else 1)
    sigma = mechanism.sigma / 2 if mutation == "half the noise" else mechanism.sigma
    ends = []
    for side, secret in ((1, b"one"), (-1, b"two")):
        learnt = process(mechanism, 1e-9, [0.0, 0.0, 0.0, side * push], 8, 0.0, secret)
        ends.append(process(mechanism, sigma, [0.0] * 4, 1, learnt.mean(), secret + b"!"))
    assert lower_bound(*ends) > MU
