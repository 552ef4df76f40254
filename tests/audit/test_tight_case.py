"""A certificate must be able to fail: the linear case, in which the account is exact.

One parameter of 100,000 coordinates is 100,000 independent runs in one dimension: clipping the whole vector to
C √n clips each coordinate to C, as all have the same gradient. So the real optimiser, update and noise are audited.
What the audit catches stands in test_mutations.py.
"""

import math

import pytest
import torch
from scipy import stats
from torch.nn import Parameter

from erode.accounting import gdp_epsilon
from erode.callbacks import GradientClipping, ModelClipping, OutputPerturbation
from erode.callbacks.noise.keyed_noise import KeyedNoise
from erode.callbacks.noise.noisy_sgd import project_

RUNS = 100_000
STEPS = 20
CONFIDENCE = 0.95
MU, DELTA = 1.0, 1e-5
EPSILON = gdp_epsilon(MU, DELTA)
CONSTANTS = {"weight_decay": 0.5, "learning_rate": 0.1, "steps": STEPS}


def wide(operator_class, narrow, **constants):
    """The operator of one dimension, for all runs at once."""
    scale = math.sqrt(RUNS)
    clip = {"clip_norm": narrow.clip_norm * scale} if hasattr(narrow, "clip_norm") else {}
    return operator_class(
        epsilon=None, sigma=narrow.mechanism.sigma, delta=DELTA, radius=narrow.radius * scale,
        reference=narrow.reference, **constants, **clip,
    )  # fmt: skip


def released(operator, start, gradient, secret, steps=STEPS):
    """End points of all runs; ``gradient`` maps weights to gradients."""
    weights, anchor = [Parameter(torch.full((RUNS,), float(start)))], [torch.zeros(RUNS)]
    with torch.no_grad():
        project_(weights, anchor, operator.radius)
    operator._noise = KeyedNoise(secret)
    operator._taken = 0
    optimizer = operator.optimizer(weights, anchor)
    for _ in range(steps):
        weights[0].grad = gradient(weights[0].detach())
        optimizer.step()
    return weights[0].detach().double()


def pushing(sign):
    return lambda weights: torch.full_like(weights, -1e3 * sign)


def lower_bound(high, low):
    """Lower confidence bound on μ of the threshold test halfway, by exact binomial intervals on both error rates."""
    threshold = (high.mean() + low.mean()) / 2
    errors = [int((low > threshold).sum()), int((high <= threshold).sum())]
    upper = [stats.beta.ppf(1 - (1 - CONFIDENCE) / 2, k + 1, RUNS - k) for k in errors]
    return stats.norm.isf(upper[0]) - stats.norm.ppf(upper[1])


def spread_agrees(sample, expected_variance):
    """Whether the variance lies in its exact interval at 99.9 %."""
    statistic = float(sample.var() * (RUNS - 1) / expected_variance)
    return stats.chi2.ppf(0.0005, RUNS - 1) < statistic < stats.chi2.ppf(0.9995, RUNS - 1)


def audit(reference):
    """Lower bound on μ between the two worst runs, and whether their spread is what was promised."""
    narrow = GradientClipping(epsilon=EPSILON, delta=DELTA, radius=1.0, clip_norm=1.0, reference=reference, **CONSTANTS)
    assert narrow.mechanism.mu() == pytest.approx(MU, rel=1e-6)
    operator = wide(GradientClipping, narrow, **CONSTANTS)
    far = {"retrained": (-1e3, pushing(-1)), "anchor": (0.0, pushing(-1)), "noise": (0.0, torch.zeros_like)}
    high = released(operator, 1e3, pushing(+1), b"one")
    low = released(operator, *far[reference], b"another")
    contraction = narrow.mechanism.bounds()[0]
    variance = narrow.mechanism.sigma**2 * sum(contraction ** (2 * k) for k in range(STEPS))
    return lower_bound(high, low), spread_agrees(high, variance) and spread_agrees(low, variance)


@pytest.mark.parametrize("reference", ["retrained", "anchor", "noise"])
def test_gradient_clipping_is_certified_tightly(reference):
    bound, spread = audit(reference)
    assert 0.9 * MU <= bound <= MU
    assert spread


@pytest.mark.parametrize("reference", ["retrained", "anchor"])
def test_output_perturbation_is_certified_tightly(reference):
    narrow = OutputPerturbation(epsilon=EPSILON, delta=DELTA, radius=1.0, reference=reference)
    operator = wide(OutputPerturbation, narrow)
    high, low = (
        released(operator, start, torch.zeros_like, secret, steps=1)
        for start, secret in ((1e3, b"one"), (-1e3 if reference == "retrained" else 0.0, b"another"))
    )
    assert 0.9 * MU <= lower_bound(high, low) <= MU


@pytest.mark.parametrize("steps", [1, 4])
def test_model_clipping_is_certified_tightly_at_epsilon_zero(steps):
    """Where each step sends every run to the nearer pole of the ball, the total variation is δ(ε = 0) exactly."""
    narrow = ModelClipping(epsilon=None, sigma=0.7, delta=DELTA, radius=1.0, steps=steps)
    operator = wide(ModelClipping, narrow, steps=steps, learning_rate=1.0)
    high, low = (
        released(operator, start, lambda w: -1e3 * w.sign(), secret, steps)
        for start, secret in ((1e3, b"one"), (-1e3, b"another"))
    )
    rates = [int((sample > 0).sum()) for sample in (high, low)]
    tail = (1 - CONFIDENCE) / 2
    below = stats.beta.ppf(tail, rates[0], RUNS - rates[0] + 1)
    above = stats.beta.ppf(1 - tail, rates[1] + 1, RUNS - rates[1])
    certified = narrow.mechanism.delta(0.0)
    assert 0.9 * certified <= below - above <= certified
