"""One forward pass with other weights in the place of a module's own, which are back afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once, under its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def call_with(module: nn.Module, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
    """``module(*inputs)`` with other weights; each of its own is the same object before and after.

    :func:`torch.func.functional_call` does not put back the weights of a module in which one layer has two names (as
    in MONAI's ``DynUNet``) if it is left to find the names of tied weights itself: the module would keep the borrowed
    ones. So each place is named here, and once.

    Args:
        module: whose ``forward`` is called.
        weights: a tensor for each name in :func:`named_tensors`.
        inputs: of ``forward``.
    """
    name_of = {id(tensor): name for name, tensor in named_tensors(module).items()}
    borrowed = {place: weights[name_of[id(tensor)]] for place, tensor in _places(module)}
    return torch.func.functional_call(module, borrowed, inputs, tie_weights=False)


def _places(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Where layers hold tensors: layers with two names once, tensors in two layers at both."""
    for path, layer in module.named_modules():
        for name, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
            if tensor is not None:
                yield f"{path}.{name}" if path else name, tensor
