"""Curvature without a matrix, against the matrix."""

from itertools import cycle, repeat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from erode.curvature import extreme_eigenvalue, flatten, hessian_product, lissa, loss_gradient, unflatten


def problem(seed=0, samples=64, features=5):
    """Logistic regression: convex, with the exact Hessian at hand."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + torch.randn(samples, generator=generator, dtype=torch.float64) > 0).double()
    weights = torch.randn(features, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(w, rows=slice(None)):
        return nn.functional.binary_cross_entropy_with_logits(x[rows] @ w, y[rows])

    return loss, weights


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_the_product_is_that_of_the_exact_hessian(seed):
    loss, weights = problem(seed)
    hessian = torch.autograd.functional.hessian(loss, weights.detach())
    vector = torch.randn(5, dtype=torch.float64)
    assert torch.allclose(hessian_product(loss(weights), [weights], vector), hessian @ vector, atol=1e-12)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_lissa_is_the_exact_newton_direction_on_a_convex_problem(ridge):
    loss, weights = problem()
    hessian = torch.autograd.functional.hessian(loss, weights.detach())
    gradient = loss_gradient(loss(weights), [weights])
    exact = torch.linalg.solve(hessian + ridge * torch.eye(5, dtype=torch.float64), gradient)
    product = repeat(lambda v: hessian_product(loss(weights), [weights], v))
    scale = 1.1 * float(torch.linalg.eigvalsh(hessian)[-1] + ridge)
    assert torch.allclose(lissa(gradient, product, ridge, scale, 2000), exact, rtol=1e-6)


def test_batches_average_to_nearly_the_same_direction():
    loss, weights = problem(samples=256)
    rows = [torch.arange(start, 256, 8) for start in range(8)]
    products = cycle([lambda v, r=r: hessian_product(loss(weights, r), [weights], v) for r in rows])
    gradient = loss_gradient(loss(weights), [weights])
    hessian = torch.autograd.functional.hessian(loss, weights.detach())
    exact = torch.linalg.solve(hessian + 0.1 * torch.eye(5, dtype=torch.float64), gradient)
    runs = torch.stack([lissa(gradient, products, 0.1, 10.0, 1003) for _ in range(8)])
    assert (runs.mean(0) - exact).norm() < 0.05 * exact.norm()
    assert (runs.mean(0) - exact).norm() <= (runs - exact).norm(dim=1).max()


def test_a_scale_below_the_curvature_diverges_and_says_so():
    with pytest.raises(FloatingPointError, match="raise scale"):
        lissa(torch.ones(2), repeat(lambda v: 100 * v), 0.0, 1.0, 100)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8))
def test_power_iteration_finds_the_largest_magnitude(values):
    diagonal = torch.tensor([float(v) for v in values])
    found = extreme_eigenvalue(lambda v: diagonal * v, torch.ones(len(values)), 400)
    if max(values) != -min(values):
        assert abs(found) == pytest.approx(max(abs(v) for v in values), rel=1e-3)


def test_shapes_survive_and_what_the_loss_ignores_has_no_gradient():
    tensors = [torch.randn(2, 3, requires_grad=True), torch.randn(4, requires_grad=True)]
    vector = flatten(tensors)
    assert all(torch.equal(a, b) for a, b in zip(unflatten(vector, tensors), tensors, strict=True))
    gradient = loss_gradient(tensors[0].sum(), tensors)
    assert gradient.tolist() == [1.0] * 6 + [0.0] * 4
    assert hessian_product(tensors[0].sum(), tensors, torch.ones(10)).tolist() == [0.0] * 10
