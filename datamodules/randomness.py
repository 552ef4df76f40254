"""Randomness of a user's transform: drawn from the run's seed, another for each item, epoch, worker and process."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_DEPTH = 8


def random_parts(value: Any, seen: set[int] | None = None, depth: int = _DEPTH) -> list[Any]:
    """What of a transform draws at random as MONAI's do: it has ``set_random_state``.

    Found are the transform itself and what it holds in attributes, lists, dicts and ``functools.partial``; what a
    function holds in its closure is not, and follows no seed of the run's.

    Args:
        value: a transform, or what one holds.
        seen: ids of what was looked at.
        depth: of objects in objects.

    Example:
        >>> from monai.transforms import Flipd, RandFlipd
        >>> len(random_parts([Flipd("image"), RandFlipd("image")]))
        1
    """
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type) or not depth:
        return []
    seen.add(id(value))
    found: list[Any] = []
    held: list[Any] = []
    if hasattr(value, "set_random_state"):
        # It seeds its own parts, all but those that only wrap one that is random.
        found = [value]
        held = [part for part in getattr(value, "transforms", ()) if not hasattr(part, "set_random_state")]
    elif isinstance(value, (list, tuple)):
        held = list(value)
    elif isinstance(value, Mapping):
        held = list(value.values())
    elif isinstance(value, functools.partial):
        held = [value.func, *value.args, *value.keywords.values()]
    elif hasattr(value, "__self__"):
        held = [value.__self__]
    elif hasattr(value, "__dict__") and not isinstance(value, torch.Tensor):
        held = list(vars(value).values())
    return found + [part for one in held for part in random_parts(one, seen, depth - 1)]


def seed_parts(parts: list[Any], rank: int) -> None:
    """Seed them by the next number of torch's global generator and the rank of this process.

    ``seed_everything`` decides the numbers, torch gives every worker its own, and they go on from epoch to epoch;
    processes may share them, hence the rank.
    """
    drawn = int(torch.randint(2**62, ()))
    for part, seed in zip(parts, np.random.SeedSequence((drawn, rank)).generate_state(len(parts)), strict=True):
        part.set_random_state(seed=int(seed) % 2**31)
