"""What the loaders of a run serve: pairs of batches, and the roles of pixels in any of their parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor

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
    """The marks of all parts of a batch: several loaders give their batches in a dict or a list."""
    if isinstance(batch, Mapping):
        if isinstance(batch.get("role"), Tensor):
            yield batch["role"]
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        for part in batch:
            yield from roles_of(part)


def split_of(trainer: Trainer) -> ForgetSplit | None:
    """The forget/retain split of the run's DataModule; None where it has none, whatever else it calls ``split``."""
    split = getattr(getattr(trainer, "datamodule", None), "split", None)
    return split if isinstance(split, ForgetSplit) else None
