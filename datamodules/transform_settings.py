"""What a transform was told, as plain values: two with other arguments make other data."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
from torch import Tensor

_DEPTH = 8


def settings_of(value: Any, depth: int = _DEPTH) -> Any:
    """Classes and attributes of a transform and of what it holds, as values that JSON knows.

    Attributes that begin with an underscore, and random states, change with use and are left out. Whatever has no
    attributes (functions, lambdas) is told by its name alone. Take it when the transform is new: some keep what they
    drew last.

    Args:
        value: a transform, or an attribute of one.
        depth: of objects in objects.

    Example:
        >>> from monai.transforms import RandFlipd
        >>> settings_of(RandFlipd(["image"], prob=0.5)) == settings_of(RandFlipd(["image"], prob=0.1))
        False
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if not depth:
        return name
    if isinstance(value, functools.partial):
        value = ["partial", value.func, value.args, value.keywords]
    if isinstance(value, (list, tuple)):
        return [settings_of(part, depth - 1) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(part) for part in value)
    if isinstance(value, Mapping):
        return {str(key): settings_of(part, depth - 1) for key, part in value.items()}
    if hasattr(value, "__qualname__") or not hasattr(value, "__dict__"):
        return name
    told = {
        key: settings_of(part, depth - 1)
        for key, part in vars(value).items()
        if not key.startswith("_") and not isinstance(part, (np.random.RandomState, np.random.Generator))
    }
    return {"class": name, **told}
