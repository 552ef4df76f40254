"""The blockwise account against Monte Carlo: two blocks, the worst case, and repair that nobody accounted for.

Two parameters of 100,000 coordinates each are 100,000 independent runs in two dimensions, one for each block: clipping
a block to C √n clips each of its coordinates to C, as all have the same gradient.
"""

import math

import pytest
import torch
from scipy import stats
from torch.nn import Parameter

from erode.accounting import gdp_epsilon
from erode.callbacks import Blockwise
from erode.callbacks.noise.keyed_noise import KeyedNoise

RUNS, STEPS = 100_000, 10
CONFIDENCE, MU, DELTA = 0.95, 1.0, 1e-5
CONSTANTS = {"weight_decay": 0.5, "learning_rate": 0.1, "steps": STEPS, "blocks": ["first", "second"]}


def made(operator_class=Blockwise, reference="retrained"):
    """The operator for all runs at once: of two dimensions, whose block mechanisms are known, scaled by √n."""
    narrow = Blockwise(
        epsilon=gdp_epsilon(MU, DELTA), delta=DELTA, radius=1.0, clip_norm=1.0, reference=reference, **CONSTANTS
    )
    scale = math.sqrt(RUNS)
    operator = operator_class(
        epsilon=None, sigma=narrow.mechanism.sigma, delta=DELTA, radius=scale, clip_norm=scale, reference=reference,
        **CONSTANTS,
    )  # fmt: skip
    operator._members = [[0], [1]]
    operator.mechanism = operator._mechanism([RUNS, RUNS])
    assert narrow.mechanism.mu() == pytest.approx(MU, rel=1e-6)
    return operator


def released(operator, start, gradients, secret):
    """Both blocks at the end of all runs, [2, runs]; ``gradients`` maps weights to gradients."""
    weights = [Parameter(torch.full((RUNS,), float(start))) for _ in range(2)]
    anchor = [torch.zeros(RUNS), torch.zeros(RUNS)]
    operator.allow_for_rounding(anchor)
    with torch.no_grad():
        operator.clip_start(weights, anchor)
    operator._noise = KeyedNoise(secret)
    optimizer = operator.optimizer(weights, anchor)
    for _ in range(operator.mechanism.steps):
        for weight, gradient in zip(weights, gradients([w.detach() for w in weights]), strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    assert operator.account().blocks == operator.mechanism.pieces()
    return torch.stack([w.detach().double() for w in weights])


def pushing(sign):
    return lambda weights: [torch.full_like(w, -1e3 * sign) for w in weights]


PUSHED = (pushing(+1), pushing(-1))


def resting(weights):
    return [torch.zeros_like(w) for w in weights]


def coupled(weights):
    """Of ``(x - y)²``: each block is drawn to the other, noise or no noise."""
    return [weights[0] - weights[1], weights[1] - weights[0]]


def lower_bound(high, low):
    """Lower confidence bound on μ of the best linear test between two samples [2, runs] of independent columns."""
    spread = (torch.cov(high) + torch.cov(low)).reshape(len(high), len(high))
    direction = torch.linalg.lstsq(spread, (high - low).mean(1, keepdim=True)).solution
    high, low = (direction.T @ high)[0], (direction.T @ low)[0]
    threshold = (high.mean() + low.mean()) / 2
    errors = [int((low > threshold).sum()), int((high <= threshold).sum())]
    upper = [stats.beta.ppf(1 - (1 - CONFIDENCE) / 2, k + 1, RUNS - k) for k in errors]
    return stats.norm.isf(upper[0]) - stats.norm.ppf(upper[1])


@pytest.mark.parametrize("reference", ["retrained", "anchor", "noise"])
def test_both_blocks_together_are_certified_tightly(reference):
    """A linear map attains the account of each block, and independent noise the composition."""
    far = {"retrained": (-1e3, pushing(-1)), "anchor": (0.0, pushing(-1)), "noise": (0.0, resting)}
    high = released(made(reference=reference), 1e3, pushing(+1), b"one")
    low = released(made(reference=reference), *far[reference], b"another")
    assert 0.9 * MU <= lower_bound(high, low) <= MU


def test_one_block_alone_tells_less():
    """μ_i = μ/√2 for two blocks of one size."""
    high = released(made(), 1e3, pushing(+1), b"one")
    low = released(made(), -1e3, pushing(-1), b"another")
    for block in (0, 1):
        assert 0.88 * MU <= lower_bound(high[[block]], low[[block]]) * math.sqrt(2) <= MU


class Repairs(Blockwise):
    """Mutation: once the first block is noised, it is trained freely, next to a block that has no noise yet."""

    def draw(self, weights):
        self._all = weights
        return super().draw(weights)

    def account_step(self):
        super().account_step()
        if self._taken == STEPS:
            with torch.no_grad():
                for _ in range(10):
                    self._all[0].sub_(coupled(self._all)[0], alpha=0.5)


class NeverClipped(Blockwise):
    """Mutation: the clip at the start left out, as in the released code."""

    def clip_start(self, weights, anchor):
        pass


class ClippedAlone(Blockwise):
    """Mutation: the radius of the whole for every block."""

    def clip_start(self, weights, anchor):
        for weight in weights:
            weight.clamp_(-self.radius / math.sqrt(RUNS), self.radius / math.sqrt(RUNS))


def test_blocks_that_read_one_another_are_certified():
    """While the first block is trained, its clipped gradient follows a second that has no noise: that is accounted."""
    high = released(made(), 1e3, coupled, b"one")
    low = released(made(), -1e3, coupled, b"another")
    assert lower_bound(high, low) <= MU


@pytest.mark.parametrize(("mutation", "gradients"), [(Repairs, (coupled, coupled)), (ClippedAlone, PUSHED)])
def test_the_audit_catches(mutation, gradients):
    high = released(made(mutation), 1e3, gradients[0], b"one")
    low = released(made(mutation), -1e3, gradients[1], b"another")
    assert lower_bound(high, low) > MU


def test_the_audit_catches_a_start_that_is_not_clipped():
    high = released(made(NeverClipped), 3.0, coupled, b"one")
    low = released(made(NeverClipped), -3.0, coupled, b"another")
    assert lower_bound(high, low) > MU
