"""Looking into what a run holds: plain attributes, containers, objects of somebody's own, data sets and loaders."""

from __future__ import annotations

import functools
from collections import UserDict, deque
from collections.abc import Iterable, Iterator
from types import FunctionType, MappingProxyType, MethodType
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch import Callback, Trainer
from torch import nn

from ...lightning_state import callbacks_of, datamodule_of

Found = TypeVar("Found")

_LOOKED_AT_OTHERWISE = ("_modules", "_parameters", "_buffers", "_hparams_initial", "trainer", "_trainer", "_fabric")
"""Attributes that belong to the run, or are copied each time they are read."""

_PLAIN = (bool, int, float, str, bytes, type(None), np.ndarray)
"""Types of values that hold no network; lists of a data set may hold millions."""

_LIBRARIES = ("builtins", "lightning", "torch", "torchmetrics")
"""Whose objects are not looked into, but for data sets and loaders."""

_DEPTH = 3
"""Containers and objects within each other that are looked into; data sets and loaders do not count."""


def places(trainer: Trainer, module: nn.Module, known: tuple[type, ...] = ()) -> Iterator[tuple[str, Any]]:
    """What a module, its layers, the DataModule and callbacks of others hold in plain attributes, and the loaders.

    Callbacks of ours that keep weights, as the gallery does, only show what became of them. Loaders are there once
    training has begun.

    Args:
        trainer: of the run.
        module: that is unlearned.
        known: kinds of callbacks that are left out.
    """
    for name, layer in module.named_modules():
        yield from ((f"{name}.{key}" if name else key, value) for key, value in _attributes_of(layer))
    others = [one for one in callbacks_of(trainer) if not _is_ours(one) and not isinstance(one, known)]
    for owner in (datamodule_of(trainer), *others):
        if owner is not None:
            yield from ((f"{type(owner).__name__}.{key}", value) for key, value in _attributes_of(owner))
    yield "the training data", trainer.train_dataloader
    yield "the validation data", trainer.val_dataloaders


def found_in(value: Any, kind: type[Found], seen: dict[int, int], depth: int = _DEPTH) -> Iterator[Found]:
    """Objects of a kind, in as many containers and objects within each other.

    Args:
        value: where to look.
        kind: of which objects.
        seen: how deep each container was looked into by id; one for a whole search, as loaders, samplers and
            DataModules hold the same data set.
        depth: containers and objects within each other.
    """
    if issubclass(type(value), kind):  # a proxy would ask what it stands for
        yield value
        return
    if not depth or seen.get(id(value), 0) >= depth:
        return
    if type(value) is not tuple:  # items of a long list, which is not looked into again itself
        seen[id(value)] = depth
    deeper = depth if _serves_data(value) else depth - 1
    for part in parts_of(value):
        if type(part) not in _PLAIN:
            yield from found_in(part, kind, seen, deeper)


def parts_of(value: Any) -> Iterable[Any]:
    """What is inside of a container, a function that holds on to something, a data set, or an object of others.

    Mappings that may read a file for each entry, as archives do, are left closed.
    """
    kind = type(value)  # a proxy, and what reads files, may answer isinstance by what they stand for
    if issubclass(kind, (dict, UserDict, MappingProxyType)):
        return value.values()  # type: ignore[no-any-return]
    if issubclass(kind, (list, tuple, set, frozenset, deque)):
        return value  # type: ignore[no-any-return]
    if issubclass(kind, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if issubclass(kind, MethodType):
        return (value.__self__,)
    if kind.__module__.partition(".")[0] in _LIBRARIES and not _serves_data(value):
        return ()
    try:
        return object.__getattribute__(value, "__dict__").values()  # type: ignore[no-any-return]
    except (AttributeError, TypeError):
        return ()


def _serves_data(value: Any) -> bool:
    return type(value).__module__.startswith("torch.utils.data")


def _attributes_of(owner: Any) -> Iterator[tuple[str, Any]]:
    """Those of an object, and what its own classes hold for all objects."""
    yield from (entry for entry in vars(owner).items() if entry[0] not in _LOOKED_AT_OTHERWISE)
    for kind in type(owner).__mro__:
        if kind.__module__.partition(".")[0] not in _LIBRARIES:
            values = ((key, value) for key, value in vars(kind).items() if not key.startswith("__"))
            yield from (entry for entry in values if not isinstance(entry[1], (FunctionType, property)))


def _is_ours(callback: Callback) -> bool:
    return type(callback).__module__.startswith(f"{__name__.partition('.')[0]}.")
