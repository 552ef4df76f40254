"""Values of a module that neither a reset nor noise nor the released file reaches (theory §4)."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import MethodType
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from .refusals import check_communication


def check_known(trainer: Trainer, module: LightningModule, operator: str) -> None:
    """Refuse values that neither re-initialisation nor noise nor the released file would reach.

    Raises:
        MisconfigurationException: for hooks between the gradients of processes, parameters outside of ``state_dict``,
            what else it adds, parameters that an optimiser has and the module has not, networks in plain lists or
            dicts, and layers with extra state.
    """
    check_communication(trainer, operator)
    saved = module.state_dict()
    named = dict(module.named_parameters())
    known = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    if unknown := [name for name, value in saved.items() if isinstance(value, Tensor) and name not in known]:
        raise MisconfigurationException(
            f"state_dict() adds {unknown[0]}, which is no parameter and no buffer, so {operator} can neither reset it "
            "nor tell it from a trace of the forget set; register it as a buffer, or leave it out"
        )
    check_saved_as_held(module)
    if unsaved := [name for name in named if name not in saved]:
        raise MisconfigurationException(
            f"{unsaved[0]} is a parameter that state_dict() leaves out, so {operator} can neither look at it nor "
            "release it; let state_dict() hold all parameters"
        )
    own = {id(parameter) for parameter in named.values()}
    for optimizer in trainer.optimizers:
        if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
            raise MisconfigurationException(
                f"a {type(optimizer).__name__} trains a parameter that the module does not know, so {operator} cannot "
                "reach it; register its layer (as an attribute, or in a ModuleList)"
            )
    check_registered(module, operator)
    for name, layer in module.named_modules():
        if type(layer).get_extra_state is not nn.Module.get_extra_state:
            raise MisconfigurationException(
                f"{name or type(layer).__name__} keeps an extra state, which {operator} can neither reset nor tell "
                "from a trace of the forget set; keep it in a buffer, or leave the layer out"
            )


def check_registered(module: nn.Module, operator: str) -> None:
    """Refuse networks that the module does not know, in plain attributes, at any time before or in a noisy phase.

    Raises:
        MisconfigurationException: naming the first.
    """
    for place, hidden in _unregistered(module):
        raise MisconfigurationException(
            f"{place} holds a {type(hidden).__name__} that the module does not know, such as a teacher: it may have "
            f"learnt the forget set, and {operator} cannot reach it; make it an attribute of its own (and give an "
            "anchor that holds its weights, if it has to keep them), or take it out"
        )


def check_saved_as_held(module: nn.Module) -> None:
    """Refuse a ``state_dict`` with other values than the module computes with, such as averages of its own.

    Raises:
        MisconfigurationException: naming the first.
    """
    held = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    for name, value in module.state_dict().items():
        own = held.get(name)
        if (
            isinstance(value, Tensor)
            and own is not None
            and (value.data_ptr(), value.shape) != (own.data_ptr(), own.shape)
        ):
            raise MisconfigurationException(
                f"state_dict() gives another tensor as {name} than the module holds, so what is looked at and released "
                "is not what was reset, noised and trained; keep averages in parameters or buffers of their own"
            )


KNOWN = ("_modules", "_parameters", "_buffers", "_hparams_initial", "_trainer", "_fabric")
"""Attributes of modules that are looked at otherwise, belong to the run, or are copied each time they are read."""


def _unregistered(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Networks with parameters in plain attributes, and where they are."""
    own = {id(parameter) for parameter in module.parameters()}
    for name, layer in module.named_modules():
        for key, value in vars(layer).items():
            for inner in () if key in KNOWN else _networks_in(value):
                if any(id(parameter) not in own for parameter in inner.parameters()):
                    yield f"{name}.{key}" if name else key, inner


def _networks_in(value: Any, depth: int = 3) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif depth:
        for part in parts_of(value):
            yield from _networks_in(part, depth - 1)


def parts_of(value: Any) -> Iterable[Any]:
    """What is inside of a container, a function that holds on to something, or an object of somebody's own."""
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return value
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, MethodType):
        return (value.__self__,)
    theirs = type(value).__module__.partition(".")[0] in {"builtins", "lightning", "torch", "torchmetrics"}
    return () if theirs else getattr(value, "__dict__", {}).values()
