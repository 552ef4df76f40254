"""Reading retained and forget atoms out of anyone's batches, and averaging over them on all processes alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ...batch import Role
from .entries import Key, class_map, entry


class LabelledPixels(NamedTuple):
    """Pixels with a label: those of ``image`` at which ``where`` holds."""

    image: Tensor
    """``[B, C, *spatial]``."""
    label: Tensor
    """int64 ``[B, *spatial]``."""
    where: Tensor
    """bool ``[B, *spatial]``."""


@dataclass(frozen=True)
class BatchKeys:
    """Where a batch keeps what is needed: keys of a dict or positions in a tuple.

    Args:
        image: the image ``[B, C, *spatial]``.
        fine: the retained label, integer ``[B, *spatial]``.
        coarse: the label that the original model was trained on, integer ``[B, *spatial]``.
        role: :class:`~erode.batch.Role` of each pixel; None = batches carry none: every pixel of the retained
            entry is retained, every coarse-foreground pixel of the forget entry is to be forgotten.
    """

    image: Key
    fine: Key
    coarse: Key
    role: Key | None

    def retained(self, batch: Any) -> LabelledPixels:
        """Retained atoms of the retained entry, with their labels."""
        image = entry(batch, self.image, "image_key")
        label = class_map(entry(batch, self.fine, "fine_key"), image)
        if self.role is None:
            return LabelledPixels(image, label, torch.ones_like(label, dtype=torch.bool))
        return LabelledPixels(image, label, self._role(batch, image) == Role.RETAIN)

    def corrected(self, batch: Any, retained: LabelledPixels) -> Tensor:
        """Where the retained label differs from the one the original model learnt: bool ``[B, *spatial]``."""
        return class_map(entry(batch, self.coarse, "coarse_key"), retained.image) != retained.label

    def forgotten(self, batch: Any) -> LabelledPixels:
        """Forget atoms of the forget entry with their original labels; copies that pad a batch are left out."""
        image = entry(batch, self.image, "image_key")
        label = class_map(entry(batch, self.coarse, "coarse_key"), image)
        where = label > 0 if self.role is None else self._role(batch, image) == Role.FORGET
        counted = batch.get("counted") if isinstance(batch, Mapping) else None
        if isinstance(counted, Tensor):
            where = where & counted.view(-1, *[1] * (where.ndim - 1))
        return LabelledPixels(image, label, where)

    def _role(self, batch: Any, image: Tensor) -> Tensor:
        assert self.role is not None
        return class_map(entry(batch, self.role, "role_key (None where batches have no roles)"), image)


def mean_over(trainer: Trainer, values: Tensor, where: Tensor) -> Tensor:
    """Mean over the chosen pixels of all processes; 0, with a gradient of 0, where none is chosen.

    Processes choose different numbers of pixels, and distributed training averages their gradients. Each therefore
    divides its sum by the mean number, so that the average is the mean over all, as one process would have it.

    Args:
        trainer: its strategy adds the counts up.
        values: ``[B, *spatial]``.
        where: bool ``[B, *spatial]``.
    """
    count = mean_count(trainer, where.sum())
    return torch.where(where, values, 0.0).sum() / torch.where(count > 0, count, 1)


def mean_count(trainer: Trainer, count: Tensor) -> Tensor:
    """The mean of a count over all processes: what each divides its sum by, for distributed training averages."""
    everyone: Tensor = trainer.strategy.reduce(count, reduce_op="sum")
    return everyone / trainer.world_size
