"""Values of a module that neither a reset nor noise nor the released file reaches (theory §4)."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import MethodType
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from ...lightning_state import callbacks_of, datamodule_of
from .refusals import KEEP_WEIGHTS, check_communication


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
    check_registered(trainer, module, operator)
    check_optimizers_known(trainer, module, operator)
    for name, layer in module.named_modules():
        if type(layer).get_extra_state is not nn.Module.get_extra_state:
            raise MisconfigurationException(
                f"{name or type(layer).__name__} keeps an extra state, which {operator} can neither reset nor tell "
                "from a trace of the forget set; keep it in a buffer, or leave the layer out"
            )


def check_registered(trainer: Trainer, module: nn.Module, operator: str) -> None:
    """Refuse networks that the module does not know, at any time before or in a noisy phase.

    They may stand in plain attributes of the module and its layers, of the DataModule, or of callbacks.

    Raises:
        MisconfigurationException: naming the first.
    """
    for place, hidden in _unregistered(trainer, module):
        raise MisconfigurationException(
            f"{place} holds a {type(hidden).__name__} that the module does not know, such as a teacher: it may have "
            f"learnt the forget set, and {operator} cannot reach it; make it an attribute of the module (and give an "
            "anchor that holds its weights, if it has to keep them), or take it out"
        )
    for name, layer in module.named_modules():
        if _holds_constants(layer):
            raise MisconfigurationException(
                f"{name or 'the module'} is a frozen TorchScript module, whose weights are constants that {operator} "
                "can neither reset nor look at; keep it as a torch.nn.Module with parameters, or take it out"
            )


def check_optimizers_known(trainer: Trainer, module: nn.Module, operator: str) -> None:
    """Refuse optimisers that remember steps and that Lightning does not know, in plain attributes of a module.

    Raises:
        MisconfigurationException: naming the first.
    """
    known = {id(optimizer) for optimizer in trainer.optimizers}
    for place, value in _attributes(module):
        for optimizer in found_in(value, Optimizer):
            if id(optimizer) not in known and optimizer.state:
                raise MisconfigurationException(
                    f"{place} holds a {type(optimizer).__name__} that has taken steps: what it remembers may come from "
                    f"the forget set, and {operator} cannot reach it; make it in configure_optimizers, anew each time"
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


Found = TypeVar("Found")

KNOWN = ("_modules", "_parameters", "_buffers", "_hparams_initial", "trainer", "_trainer", "_fabric")
"""Attributes of modules that are looked at otherwise, belong to the run, or are copied each time they are read."""


FEWEST = 8
"""Numbers of a tensor, at least, for it to tell where it comes from."""


_PLAIN = (bool, int, float, str, bytes, type(None), np.ndarray)
"""Types of values that hold no network."""


def places(trainer: Trainer, module: nn.Module, known: tuple[type, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Plain attributes of a module and its layers, of the DataModule, and of callbacks of others.

    Callbacks of ours that keep weights, as the gallery does, only show what became of them.

    Args:
        trainer: of the run.
        module: that is unlearned.
        known: kinds of callbacks that are left out.
    """
    yield from _attributes(module)
    others = [one for one in callbacks_of(trainer) if not _is_ours(one) and not isinstance(one, known)]
    for owner in (datamodule_of(trainer), *others):
        if owner is not None:
            own = (entry for entry in vars(owner).items() if entry[0] not in KNOWN)
            yield from ((f"{type(owner).__name__}.{key}", value) for key, value in own)


def _is_ours(callback: Callback) -> bool:
    return type(callback).__module__.startswith(f"{__name__.partition('.')[0]}.")


def found_in(value: Any, kind: type[Found], depth: int = 3) -> Iterator[Found]:
    """Objects of a kind, in as many containers and objects within each other."""
    if isinstance(value, kind):
        yield value
    elif depth:
        for part in parts_of(value):
            if type(part) not in _PLAIN:  # lists of a data set may hold millions
                yield from found_in(part, kind, depth - 1)


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        yield from ((prefix + key, value) for key, value in vars(layer).items() if key not in KNOWN)


def _unregistered(trainer: Trainer, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Networks with weights that are none of the module's, and where they are."""
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for place, value in places(trainer, module, known=tuple(KEEP_WEIGHTS)):  # those have rules of their own
        for inner in found_in(value, nn.Module):
            if _holds_constants(inner) or any(id(weight) not in own for weight in _weights_of(inner)):
                yield place, inner


def _weights_of(network: nn.Module) -> Iterator[Tensor]:
    """What a network may have learnt; a few numbers, and the states of metrics, are none of it."""
    yield from network.parameters()
    for layer in () if isinstance(network, Metric) else network.modules():
        yield from (b for b in layer.buffers(recurse=False) if b.is_floating_point() and b.numel() >= FEWEST)


def _holds_constants(layer: nn.Module) -> bool:
    """Whether a TorchScript module keeps tensors in its code, as ``torch.jit.freeze`` does."""
    if not isinstance(layer, torch.jit.ScriptModule):
        return False
    if not hasattr(layer, "forward"):  # a list of layers
        return False
    graph = layer.inlined_graph  # its nodes live as long as it does
    constants = graph.findAllNodes("prim::Constant")  # type: ignore[attr-defined]  # torch declares it nowhere
    values = (node.t("value") for node in constants if node.hasAttribute("value") and node.kindOf("value") == "t")
    return any(value.numel() >= FEWEST for value in values)


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
