"""Layers drawn anew by their own ``reset_parameters``, and what that does not reach."""

from __future__ import annotations

from torch import nn

from .fresh_start import stuck


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
