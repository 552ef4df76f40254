"""Curvature without a matrix: Hessian-vector products, extreme eigenvalues and inverses of them (theory §5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""Multiplies a symmetric matrix ``[d, d]`` by a vector ``[d]``."""


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors as one vector ``[d]``.

    Example:
        >>> flatten([torch.zeros(2, 3), torch.ones(1)]).shape
        torch.Size([7])
    """
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Inverse of ``flatten``, in the shapes of ``like``.

    Example:
        >>> [part.shape for part in unflatten(torch.zeros(7), [torch.zeros(2, 3), torch.ones(1)])]
        [torch.Size([2, 3]), torch.Size([1])]
    """
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def loss_gradient(loss: Tensor, weights: Sequence[Tensor], create_graph: bool = False) -> Tensor:
    """Gradient ``[d]``; 0 where the loss does not depend on a weight.

    Example:
        >>> weight = torch.tensor([3.0], requires_grad=True)
        >>> loss_gradient((weight**2).sum(), [weight]).tolist()
        [6.0]
    """
    found = torch.autograd.grad(loss, list(weights), create_graph=create_graph, allow_unused=True)
    return flatten([torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)])


def hessian_product(loss: Tensor, weights: Sequence[Tensor], vector: Tensor) -> Tensor:
    """Exact product ``[d]`` of the loss's Hessian and a vector, by differentiating twice.

    Source:
        Pearlmutter 1994.

    Example:
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_product((weight**3).sum(), [weight], torch.tensor([1.0, 1.0])).tolist()
        [6.0, 12.0]
    """
    gradient = loss_gradient(loss, weights, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(vector)  # a loss that is linear in the weights
    return loss_gradient(gradient @ vector, weights)


def extreme_eigenvalue(product: Product, start: Tensor, iterations: int) -> float:
    """Eigenvalue of the largest magnitude, with its sign, by power iteration.

    Args:
        product: the matrix.
        start: vector ``[d]``, not orthogonal to the eigenvector: a random one.
        iterations: matrix products.

    Returns:
        The Rayleigh quotient of the last vector; never above the truth in magnitude.

    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, -4.0, 2.0]))
        >>> round(extreme_eigenvalue(lambda v: matrix @ v, torch.ones(3), 30), 4)
        -4.0
    """
    vector, quotient = start / start.norm(), 0.0
    for _ in range(iterations):
        image = product(vector)
        quotient = float(vector @ image)
        norm = image.norm()
        if float(norm) == 0:
            continue  # as many products as ever: their number is recorded, and must not tell of the weights
        vector = image / norm
    return quotient


def lissa(gradient: Tensor, products: Iterator[Product], ridge: float, scale: float, iterations: int) -> Tensor:
    """Approximate ``(H + λI)⁻¹ g`` by ``v ← g + v - (H_batch v + λv)/s``, in the end divided by s.

    Args:
        gradient: g, vector ``[d]``.
        products: the Hessian on one batch after another, each without ridge.
        ridge: λ >= 0.
        scale: s, at least the largest eigenvalue of any ``H_batch + λI``.
        iterations: steps; the error falls as ``(1 - (λ_min + λ)/s)^iterations``.

    Raises:
        FloatingPointError: if it diverged.

    Source:
        Agarwal, Bullins and Hazan 2017; Zhang B. et al. 2024, section 3.3.

    Example:
        >>> from itertools import repeat
        >>> product = lambda v: torch.tensor([1.0, 3.0]) * v
        >>> step = lissa(torch.tensor([2.0, 4.0]), repeat(product), ridge=1.0, scale=4.0, iterations=100)
        >>> [round(value, 4) for value in step.tolist()]
        [1.0, 1.0]
    """
    vector = gradient.clone()
    for _ in range(iterations):
        vector = gradient + vector - (next(products)(vector) + ridge * vector) / scale
    if not bool(torch.isfinite(vector).all()):
        raise FloatingPointError("LiSSA diverged: raise scale (above the curvature of every batch), or ridge")
    return vector / scale
