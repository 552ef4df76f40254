"""What the loaders of a run serve: pairs of batches, and the roles of pixels in any of their parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor

from ...lightning_state import datamodule_of
from ...masks import ForgetSplit


def pair_of(batch: Any, operator: str) -> Mapping[str, Any]:
    """A batch with its two entries.

    Raises:
        MisconfigurationException: with the reason why it is none; names ``operator``.
    """
    if isinstance(batch, Mapping) and {"retain", "forget"} <= batch.keys():
        if batch["retain"] is not None and batch["forget"] is not None:
            return batch
        raise MisconfigurationException(
            f"one of the two loaders ended before the other, and {operator} needs a batch of each; "
            "use CombinedLoader(..., mode='max_size_cycle'), as a plain dict of loaders is"
        )
    has = f"a dict with {sorted(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise MisconfigurationException(
        f"{operator} needs batches {{'retain': ..., 'forget': ...}}, the loader serves {has}; use a DataModule of "
        "ours, or give fit {'retain': loader, 'forget': loader}"
    )


def roles_of(batch: Any) -> Iterator[Tensor]:
    """The marks of all parts of a batch, whatever collates them: dicts, lists, named tuples, data classes.

    Raises:
        MisconfigurationException: where something that is no array is called ``role``.
    """
    for name, part in _entries(batch):
        yield from _marks(part) if name == "role" else roles_of(part)


def _entries(batch: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(batch, Mapping):
        return batch.items()
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return zip(batch._fields, batch, strict=True)
    if is_dataclass(batch) and not isinstance(batch, type):
        return [(field.name, getattr(batch, field.name)) for field in fields(batch)]
    return enumerate(batch) if isinstance(batch, (list, tuple)) else ()


def _marks(role: Any) -> Iterator[Tensor]:
    if isinstance(role, np.ndarray) and role.dtype.kind not in "biuf":
        role = role.tolist()
    if isinstance(role, (Tensor, np.ndarray, int)):  # a number is what collation makes a tensor of
        yield torch.as_tensor(role)
    elif isinstance(role, (list, tuple)):
        for part in role:
            yield from _marks(part)
    elif not isinstance(role, (str, NoneType)):  # words of someone else's are no marks of pixels
        raise MisconfigurationException(
            f"the batch has a 'role' of type {type(role).__name__}, which cannot be searched for FORGET marks "
            "(erode.batch); serve an array or a tensor, or give it another name if it says something else"
        )


def split_of(trainer: Trainer) -> ForgetSplit | None:
    """The forget/retain split of the run's DataModule; None where it has none, whatever else it calls ``split``."""
    split = getattr(datamodule_of(trainer), "split", None)
    return split if isinstance(split, ForgetSplit) else None
