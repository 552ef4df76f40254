"""Rounding never carries weights further than the account counts on: measured with more digits than they have."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, Watch, fit
from torch.nn import Parameter

from erode.callbacks import CNS, Blockwise, GradientClipping, ModelClipping, OutputPerturbation
from erode.callbacks.noise.draws import CPUDraw
from erode.callbacks.noise.keyed_noise import KeyedNoise
from erode.callbacks.noise.noisy_sgd import NoisySGD
from erode.callbacks.noise.rounding import reach, rounding_error

STEPS = 3
OPERATORS = {
    "plain": lambda **c: GradientClipping(weight_decay=0.0, learning_rate=1e-2, clip_norm=1.0, steps=STEPS, **c),
    "decay": lambda **c: GradientClipping(weight_decay=10.0, learning_rate=1e-2, clip_norm=1.0, steps=STEPS, **c),
    "strong decay": lambda **c: GradientClipping(
        weight_decay=70.0, learning_rate=1e-2, clip_norm=1.0, steps=STEPS, **c
    ),
    "model": lambda **c: ModelClipping(learning_rate=0.1, weight_decay=1.0, steps=STEPS, **c),
    "output": OutputPerturbation,
    "newton": CNS,
}
CASES = st.tuples(
    st.sampled_from([torch.float32, torch.float32, torch.float64]),
    st.integers(1, 3000),  # d
    st.floats(-6, 2),  # decades of the anchor
    st.floats(-6, 1),  # of the radius
    st.floats(-7, 0),  # of sigma
    st.floats(-4, 6),  # of the gradient
    st.booleans(),  # all coordinates alike, so that rounding adds up
    st.integers(0, 2**31),
)


def exact(vector):
    return np.concatenate([t.detach().numpy().reshape(-1) for t in vector]).astype(np.longdouble)


def norm(vector):
    return float(np.sqrt((vector**2).sum()))


def drawn_like(case, decades):
    dtype, d, _, _, _, _, alike, seed = case
    generator = torch.Generator().manual_seed(seed + round(decades * 1000))
    values = torch.rand(1, generator=generator, dtype=torch.float64).expand(d).clone() if alike else torch.randn(
        d, generator=generator, dtype=torch.float64
    )  # fmt: skip
    return [part.to(dtype) for part in (values * 10.0**decades).tensor_split([d // 3])]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(OPERATORS)), CASES)
def test_no_start_and_no_step_goes_further_than_was_accounted_for(kind, case):
    """Each step is measured from where the one before was before its noise was rounded, as the lemma needs it."""
    _, _, size, radius, sigma, steep, *_ = case
    operator = OPERATORS[kind](epsilon=None, sigma=10.0**sigma, radius=10.0**radius)
    anchor, gradient = drawn_like(case, size), drawn_like(case, steep)
    try:
        operator.allow_for_rounding(anchor)
    except MisconfigurationException:
        return  # what is refused stands below
    theta = exact(anchor)
    weights = [a + 10 * b for a, b in zip(anchor, drawn_like(case, radius + 0.1), strict=True)]
    operator.clip_start(weights, anchor)
    assert norm(exact(weights) - theta) <= operator.radius
    assert operator._radius < operator.radius
    noise, unrounded = KeyedNoise(b"a"), exact(weights)
    for step in range(0 if kind == "output" else STEPS):
        operator.update(weights, [(-1) ** step * g.clone() for g in gradient], anchor)
        moved = exact(weights)
        if kind in ("model", "newton"):
            assert norm(moved - theta) <= operator.radius
        else:
            c = 1 - operator.learning_rate * operator.weight_decay
            expected = c * unrounded + (1 - np.longdouble(c)) * theta
            assert norm(moved - expected) <= operator.learning_rate * operator.clip_norm
            assert norm(moved) <= operator._reach
        drawn = noise.draw([w.double() for w in weights], step)
        noise.add_(weights, step, operator.mechanism.sigma)
        unrounded = moved + operator.mechanism.sigma * exact(drawn)


@settings(deadline=None, max_examples=60)
@given(CASES, st.floats(-0.5, 0.5))
def test_the_bound_on_rounding_holds(case, shift):
    vector = drawn_like(case, case[2])
    single = [v.double() + shift for v in vector]
    rounded = [v.float() for v in single]
    assert norm(exact(rounded) - exact(single)) <= rounding_error(norm(exact(single)), rounded)


def test_the_start_leaves_the_ball_unless_rounding_is_held_back():
    """All coordinates 8.6 units in the last place away, which are rounded to 9."""
    anchor, radius = [torch.full((10_000,), 1.5)], 8.6 * 2.0**-23 * 100

    def distance(operator):
        weights = [anchor[0] + 1.0]
        operator.clip_start(weights, anchor)
        return norm(exact(weights) - exact(anchor))

    operator = OutputPerturbation(radius=radius)
    assert distance(operator) > 1.04 * radius
    operator.allow_for_rounding(anchor)
    assert 0.85 * radius < distance(operator) <= radius


def test_a_ball_as_small_as_its_rounding_is_refused():
    """Two starts, accounted 1.24e-5 apart at the most, ended 2.4e-5 apart."""
    radius = 0.52 * 2.0**-23 * 100
    operator = OutputPerturbation(epsilon=1.0, delta=1e-5, radius=radius)
    with pytest.raises(MisconfigurationException, match=r"radius = 6.2e-06.*10000 exposed.*raise radius .* 64-true"):
        operator.allow_for_rounding([torch.full((10_000,), 1.5)])
    operator.allow_for_rounding([torch.full((10_000,), 1.5, dtype=torch.float64)])
    assert operator._radius == pytest.approx(radius, rel=1e-8)


def test_at_usual_sizes_next_to_nothing_is_held_back():
    """52,000 parameters, as a layer of 100 inputs begins with."""
    anchor = [torch.full((52_000,), 0.1 / math.sqrt(3))]
    operator = GradientClipping()
    operator.allow_for_rounding(anchor)
    assert operator._radius > 0.999 * operator.radius
    assert operator._clip_norm > 0.97 * operator.clip_norm
    moderate = ModelClipping()
    moderate.allow_for_rounding(anchor)
    assert moderate._radius > 0.9999 * moderate.radius


SMALL = {
    "radius": (
        r"as near the anchor as radius = 1e-08 are lost in rounding.*raise radius",
        lambda: OutputPerturbation(radius=1e-8),
    ),
    "projection": ("radius = 1e-08", lambda: ModelClipping(radius=1e-8, steps=2)),
    "newton": ("radius = 1e-08", lambda: CNS(radius=1e-8)),
    "step": (
        r"learning_rate \* clip_norm = 1e-08 are lost in rounding.*130 exposed.*float32.*raise learning_rate or clip",
        lambda: GradientClipping(learning_rate=1e-8, steps=1),
    ),
    "block": (
        r"block 1 of 2 \(larger ones lose less; see blocks=\): certified steps",
        lambda: Blockwise(learning_rate=1e-8, steps=1),
    ),
}


@pytest.mark.parametrize("what", SMALL)
def test_what_is_lost_in_rounding_is_refused_before_the_first_step(what, tmp_path):
    why, operator = SMALL[what]
    with pytest.raises(MisconfigurationException, match=why):
        fit(Module(), tmp_path, operator())
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_double_precision_is_refused_nothing():
    operator = GradientClipping(learning_rate=1e-8, radius=1e-7, steps=2)
    anchor = [torch.ones(10_000)]
    with pytest.raises(MisconfigurationException, match="64-true"):
        operator.allow_for_rounding(anchor)
    operator.allow_for_rounding([a.double() for a in anchor])
    assert operator._clip_norm == pytest.approx(operator.clip_norm, rel=1e-5)


def test_each_block_holds_back_by_its_own_parameters():
    operator = Blockwise(blocks=["a", "b"], learning_rate=1e-2, steps=1)
    operator._members, operator.mechanism = [[0], [1]], operator._mechanism([100, 10_000])
    anchor = [torch.ones(100), torch.zeros(10_000)]
    operator.allow_for_rounding(anchor)
    for index in range(2):
        block = operator.mechanism.block(index)
        error = 2 * rounding_error(reach(block, [anchor[index]]), [anchor[index]])
        assert operator._clip_norms[index] == pytest.approx(block.clip_norm - error / 1e-2, rel=1e-12)
        assert operator._radii[index] < block.radius


def test_weights_beyond_their_reach_are_refused():
    operator = GradientClipping(clip_norm=1.0, learning_rate=0.1, steps=1)
    weights = [Parameter(torch.ones(4)), Parameter(torch.ones(5))]
    with pytest.raises(FloatingPointError, match="further away than clipped steps and noise can carry them"):
        NoisySGD(weights, [], operator.update, lambda w: CPUDraw([], [], 0.0), reach=2.99).step()
    NoisySGD(weights, [], operator.update, lambda w: CPUDraw([], [], 0.0), reach=3.01).step()


def test_a_run_that_goes_on_holds_back_as_before(tmp_path):
    def cut(trainer, module):
        trainer.save_checkpoint(tmp_path / "cut.ckpt")
        raise InterruptedError

    first, second = (GradientClipping(steps=5, weight_decay=1.0) for _ in range(2))
    with pytest.raises(InterruptedError):
        fit(Module(), tmp_path / "a", first, Watch(2, cut), enable_checkpointing=True)
    fit(Module(), tmp_path / "b", second, ckpt_path=tmp_path / "cut.ckpt")
    assert second._clip_norm == first._clip_norm < 1.0
    assert (second._radius, second._reach) == (first._radius, first._reach)
