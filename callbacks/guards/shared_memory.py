"""Tensors of which several elements are one place in memory, such as ``torch.arange(5).expand(3, -1)``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def overwrite(tensor: Tensor, value: Tensor) -> None:
    """Copy into a tensor, in place; torch itself refuses one that was expanded.

    Args:
        tensor: as large as ``value``.
        value: alike along the dimensions that were expanded.

    Example:
        >>> import torch
        >>> tensor = torch.zeros(2).expand(3, -1)
        >>> overwrite(tensor, torch.ones(3, 2))
        >>> tensor.sum().item()
        6.0
    """
    for dim in _expanded(tensor):
        tensor, value = tensor.narrow(dim, 0, 1), value.narrow(dim, 0, 1)
    tensor.copy_(value)


def check_loads(module: nn.Module) -> None:
    """Refuse a module that no file of weights can be loaded into.

    Raises:
        MisconfigurationException: naming the first tensor that was expanded.
    """
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and _expanded(tensor):
            raise MisconfigurationException(
                f"{name} was expanded: several of its elements are one place in memory, so torch cannot load a file "
                "into it; register tensor.expand(...).clone(), or leave a constant out of files by "
                "register_buffer(..., persistent=False)"
            )


def overlapping(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Names of two tensors that reach into the same memory, if any do.

    Example:
        >>> import torch
        >>> whole = torch.zeros(4)
        >>> overlapping({"whole": whole, "end": whole[2:]}), overlapping({"start": whole[:2], "end": whole[2:]})
        (('whole', 'end'), None)
    """
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), name)
        for name, tensor in tensors.items()
        if tensor.numel() and not tensor.is_meta and not is_lazy(tensor)
    )
    pairs = itertools.pairwise(spans)
    return next(((one[2], other[2]) for one, other in pairs if other[0] < one[1]), None)


def _extent(tensor: Tensor) -> int:
    """Bytes from the first element to behind the last."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()


def _expanded(tensor: Tensor) -> list[int]:
    """Dimensions along which all elements are one place."""
    return [dim for dim in range(tensor.dim()) if tensor.stride(dim) == 0 and tensor.size(dim) > 1]
