"""Tensors of which several elements are one place in memory, such as ``torch.arange(5).expand(3, -1)``."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn


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


def _expanded(tensor: Tensor) -> list[int]:
    """Dimensions along which all elements are one place."""
    return [dim for dim in range(tensor.dim()) if tensor.stride(dim) == 0 and tensor.size(dim) > 1]
