"""What an object was told, as plain values: other arguments of transforms, losses and schedules make other results."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import types
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .weights import state_digest, weights_digest

_DEPTH = 8
_DRAWS = (np.random.RandomState, np.random.Generator, torch.Generator, logging.Logger)
"""What changes with use, and says nothing of an object."""
_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has: its parts, which are described by themselves, and hooks."""


def settings_of(value: Any, within: tuple[int, ...] = (), depth: int = _DEPTH) -> Any:
    """Classes and attributes of an object and of what it holds, private ones too, as values that JSON knows.

    Random states change with use and are left out. Functions are told by name, code, defaults and what they enclose;
    what is not Python, by its name alone. Take it when the object is new: some keep what they drew last.

    Args:
        value: an object, or an attribute of one.
        within: identities of the objects that hold it, outermost first; what holds itself is described once.
        depth: of objects in objects; what lies deeper is told by name.

    Example:
        >>> from monai.transforms import RandFlipd
        >>> settings_of(RandFlipd(["image"], prob=0.5)) == settings_of(RandFlipd(["image"], prob=0.1))
        False
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (Enum, PurePath)):
        return str(value.value if isinstance(value, Enum) else value)
    if isinstance(value, np.generic):
        return settings_of(value.item())
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), state_digest({"": value})]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if len(within) >= depth or id(value) in within or isinstance(value, types.ModuleType):
        return _name(value)
    inner = functools.partial(settings_of, within=(*within, id(value)), depth=depth)
    if isinstance(value, functools.partial):
        return ["partial", *map(inner, (value.func, list(value.args), value.keywords))]
    if isinstance(value, (list, tuple)):
        return [inner(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted((inner(part) for part in value), key=json.dumps)
    if isinstance(value, Mapping):
        return {str(key): inner(part) for key, part in value.items()}
    if isinstance(value, torch.optim.Optimizer):
        return " ".join(str(value).split())
    if isinstance(value, nn.Module):
        return {**module_settings(value, within), "weights": weights_digest(value)}
    if isinstance(value, (types.FunctionType, types.MethodType)):
        return _function(value, inner)
    return _object(value, inner)


def module_settings(module: nn.Module, within: tuple[int, ...] = ()) -> dict[str, Any]:
    """Classes, attributes and buffers of a module and of all modules within; not its parameters, which are trained.

    Args:
        module: such as a network or a loss.
        within: as for :func:`settings_of`.

    Example:
        >>> module_settings(nn.Dropout(0.5)) == module_settings(nn.Dropout(0.1))
        False
    """
    inner = functools.partial(settings_of, within=(*within, id(module)))
    return {
        ".".join(filter(None, ("module", name))): {
            "class": _name(type(part)),
            **{key: settings_of(buffer) for key, buffer in part.named_buffers(recurse=False)},
            **{key: inner(told) for key, told in _attributes_of_module(part).items()},
        }
        for name, part in module.named_modules()
    }


def _attributes_of_module(module: nn.Module) -> dict[str, Any]:
    if hasattr(module, "_orig_mod"):  # compiled: the rest of it is torch's compiler, never twice the same
        return {}
    return {key: told for key, told in _attributes(module).items() if key not in _OF_MODULES}


def _object(value: Any, inner: Callable[[Any], Any]) -> Any:
    attributes = _attributes(value)
    if isinstance(value, type) or not attributes:
        text = repr(value)
        return _name(value) if isinstance(value, type) or " at 0x" in text else text
    return {"class": _name(type(value)), **{key: inner(part) for key, part in attributes.items()}}


def _attributes(value: Any) -> dict[str, Any]:
    slots = [name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ()) if isinstance(name, str)]
    told = {name: getattr(value, name) for name in slots if name != "__weakref__" and hasattr(value, name)}
    told |= getattr(value, "__dict__", {})
    return {name: part for name, part in told.items() if not isinstance(part, _DRAWS)}


def _function(value: types.FunctionType | types.MethodType, inner: Callable[[Any], Any]) -> dict[str, Any]:
    if isinstance(value, types.MethodType):
        return {"method": _name(value), "of": inner(value.__self__)}
    enclosed = {
        name: _content(cell) for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    }
    told = (value.__defaults__, value.__kwdefaults__, enclosed)
    return {"function": _name(value), "code": _code(value.__code__), "told": [inner(x) for x in told]}


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _code(code: types.CodeType) -> str:
    """Digest of what a function does, wherever it stands in its file."""
    constants = [
        _code(part) if isinstance(part, types.CodeType) else repr(settings_of(part)) for part in code.co_consts
    ]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{name}"
