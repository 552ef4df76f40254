"""Layers drawn anew by their own ``reset_parameters``, and what that does not reach."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .shared_memory import overwrite


def reset_parameters(module: nn.Module) -> None:
    """Re-initialise every layer that owns parameters through its own ``reset_parameters``."""
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()


def unresettable(module: nn.Module) -> list[str]:
    """Names of parameters, and persistent buffers that are no integers, that re-initialising would leave as they are.

    A layer may own a ``reset_parameters`` that forgets some of its tensors, as convolutions under ``weight_norm`` do.

    Example:
        >>> unresettable(nn.Linear(2, 1)), unresettable(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)))
        ([], ['parametrizations.weight.original0', 'parametrizations.weight.original1'])
    """
    parameters, saved = dict(module.named_parameters()), module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    told = {name for name, b in buffers.items() if b.is_floating_point() or b.is_complex()} | parameters.keys()
    return [name for name in stuck(module, reset_parameters) if name in told]


def kept_buffers(module: nn.Module) -> list[str]:
    """Names of buffers that no re-initialisation reaches: integers, and those that are not saved.

    They are constants in every network of MONAI's; a buffer that training changes would carry it on.
    """
    persistent = module.state_dict().keys()
    return [
        name
        for name, buffer in module.named_buffers()
        if not name.endswith("num_batches_tracked") and (name not in persistent or not buffer.is_floating_point())
    ]


def stuck(module: nn.Module, reset: Callable[[nn.Module], None]) -> list[str]:
    """Names of parameters and buffers that a reset leaves as they are, in any element.

    It is tried, not asked: all values are replaced by others, reset, looked at, and put back; integers twice, for a
    reset may set the very value that replaced them.

    Args:
        module: the network; as it was afterwards.
        reset: sets what it can of the module.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    left: dict[str, int] = dict.fromkeys(tensors, 0)
    with torch.no_grad(), torch.random.fork_rng({t.device.index for t in tensors.values() if t.is_cuda}):
        try:
            for value in (0, 1):
                for tensor in tensors.values():
                    tensor.fill_(torch.nan if _has_nan(tensor) else value)
                reset(module)
                for name, tensor in tensors.items():
                    same = tensor.isnan() if _has_nan(tensor) else tensor == value
                    left[name] += bool(same.any())
        finally:
            for name, tensor in tensors.items():
                overwrite(tensor, before[name])
    return [name for name, times in left.items() if times == 2]


def _has_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
