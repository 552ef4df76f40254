"""The certified step, against its formula, and against everything that could bend it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.nn import Parameter

from erode.callbacks import GradientClipping, ModelClipping
from erode.callbacks.noise.chunks import cut
from erode.callbacks.noise.draws import CPUDraw, DeviceDraw
from erode.callbacks.noise.noisy_sgd import NoisySGD, clip_, project_, vector_norm
from erode.callbacks.noise.replays import Replays

VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)


def nothing(weights):
    """No noise: what is left is the update."""
    return CPUDraw([], [], 0.0)


def vector(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@settings(deadline=None, max_examples=60)
@given(VALUES, st.floats(1e-3, 1e3))
def test_clipping_never_leaves_the_ball_and_never_turns(values, radius):
    tensors = [torch.tensor(values), torch.tensor(values[:1])]
    before = torch.cat(tensors).double()
    clip_(tensors, radius)
    after = torch.cat(tensors).double()
    assert after.norm() <= radius
    if before.norm() < radius * (1 - 1e-4):
        assert torch.equal(before, after)
    assert torch.allclose(after * before.norm(), before * after.norm(), rtol=1e-5, atol=1e-20)


def test_projection_is_around_the_anchor():
    weights, anchor = vector([3.0, 5.0]), vector([0.0, 1.0])
    project_(weights, anchor, 1.0)
    assert torch.allclose(weights[0], torch.tensor([0.6, 1.8], dtype=torch.float64), atol=1e-4)


def test_gradient_clipping_decays_outside_the_clip():
    operator = GradientClipping(radius=1.0, clip_norm=0.5, learning_rate=0.1, weight_decay=2.0, steps=1)
    weights, anchor = [Parameter(w) for w in vector([1.0, 2.0], [3.0])], vector([0.5, 0.5], [1.0])
    start = [w.detach().clone() for w in weights]
    gradients = vector([30.0, 0.0], [40.0])
    optimizer = NoisySGD(weights, anchor, operator.update, nothing)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()
    optimizer.step()
    for weight, x, theta, g in zip(weights, start, anchor, gradients, strict=True):
        assert torch.allclose(weight.detach(), x - 0.1 * (0.5 * g / 50 + 2.0 * (x - theta)), atol=1e-6)


def test_model_clipping_decays_inside_the_projection():
    operator = ModelClipping(radius=0.3, learning_rate=0.1, weight_decay=2.0, steps=1)
    weights, anchor, gradient = [Parameter(vector([1.0, 2.0])[0])], vector([0.5, 0.5]), vector([30.0, -4.0])
    start = weights[0].detach().clone()
    weights[0].grad = gradient[0].clone()
    NoisySGD(weights, anchor, operator.update, nothing).step()
    moved = start - 0.1 * (gradient[0] + 2.0 * (start - anchor[0])) - anchor[0]
    assert torch.allclose(weights[0].detach(), anchor[0] + 0.3 * moved / moved.norm(), atol=1e-5)


def test_a_parameter_without_gradient_stands_still():
    operator = GradientClipping(clip_norm=1.0, learning_rate=0.1, steps=1)
    weights = [Parameter(torch.ones(2)), Parameter(torch.ones(2))]
    weights[0].grad = torch.ones(2)
    NoisySGD(weights, [], operator.update, nothing).step()
    assert torch.equal(weights[1].detach(), torch.ones(2))
    assert not torch.equal(weights[0].detach(), torch.ones(2))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_is_an_error(bad):
    operator = GradientClipping(steps=1)
    weights = [Parameter(torch.ones(2))]
    weights[0].grad = torch.tensor([1.0, bad])
    with pytest.raises(FloatingPointError, match="not finite"):
        NoisySGD(weights, [], operator.update, nothing).step()


@pytest.mark.parametrize("write", [lambda p: p.add_(1), lambda p: setattr(p, "data", p.data + 1)], ids=["add", "swap"])
def test_weights_that_something_else_wrote_are_refused(write):
    weights = [Parameter(torch.ones(2))]
    optimizer = NoisySGD(weights, [], GradientClipping(steps=2).update, nothing)
    optimizer.step()
    with torch.no_grad():
        write(weights[0])
    with pytest.raises(MisconfigurationException, match="wrote the exposed weights"):
        optimizer.step()


def test_the_learning_rate_shown_to_monitors_has_no_effect():
    operator = GradientClipping(clip_norm=1.0, learning_rate=0.1, steps=1)
    weights = [Parameter(torch.zeros(1))]
    optimizer = NoisySGD(weights, [], operator.update, nothing, learning_rate=operator.learning_rate)
    optimizer.param_groups[0]["lr"] *= 100
    weights[0].grad = torch.tensor([5.0])
    optimizer.step()
    assert weights[0].item() == pytest.approx(-0.1, rel=1e-4)


class Launched(Replays):
    """Nothing is recorded where there is no GPU."""

    count = 0

    def launch(self, operations, draw, gradient):
        self.count += 1
        operations()


@pytest.mark.parametrize("operator_class", [GradientClipping, ModelClipping])
def test_gathered_gradients_do_what_single_ones_do(operator_class):
    """The path of a GPU, walked on the CPU, whatever the memory format, also without some gradients."""
    ends = []
    for gathered in (False, True):
        generator = torch.Generator().manual_seed(0)
        weights = [Parameter(torch.randn(shape, generator=generator)) for shape in ((20, 30), (7,), (3, 4, 5, 5))]
        weights[2].data = weights[2].data.to(memory_format=torch.channels_last)
        operator = operator_class(steps=9)
        chunks = cut(weights, 500)

        def noise(_, chunks=chunks, generator=generator):
            return DeviceDraw(chunks, generator, 0.1)

        optimizer = NoisySGD(weights, [torch.zeros_like(w) for w in weights], operator.update, noise)
        optimizer._replays = Launched() if gathered else None
        for step in range(4):
            for weight in weights[step == 2 :]:
                weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()
            assert all(weight.grad is None for weight in weights)  # or one would go on past the next projection
        optimizer.settle()
        ends.append([weight.detach().clone() for weight in weights])
    assert optimizer._replays.count == 4
    assert all(torch.allclose(a, b, rtol=1e-6, atol=0) for a, b in zip(*ends, strict=True))


def test_norms_of_large_vectors_are_exact_enough():
    """The margin of clipping is 1e-5; the norm of a million numbers must be far better."""
    torch.manual_seed(0)
    tensors = [torch.randn(1_000_000) for _ in range(2)]
    exact = torch.cat(tensors).double().norm()
    assert vector_norm(tensors).item() == pytest.approx(exact.item(), rel=1e-9)
