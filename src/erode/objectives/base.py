"""What every objective of an image classifier has in common (theory §8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingSet:
    """What an objective may know of all training images, in the order of the data set.

    Args:
        ids: N names.
        labels: class of the image ``[N]``, on the CPU.
        flags: artefact flag ``[N]``, see :mod:`erode.batch`.
        predicted: class that the model predicts ``[N]``; None before training.
        num_classes: K.
    """

    ids: Sequence[str]
    labels: Tensor
    flags: Tensor
    predicted: Tensor | None
    num_classes: int


class ClassificationObjective(nn.Module, ABC):
    """Makes one loss of the cross-entropies of a batch; subclasses say how in `reduce`.

    Whoever trains calls `begin` before the first step if it `asks_for_groups`. Where ``stage_end`` is a number, the
    first stage ends after that many optimiser steps: whoever trains then calls `next_stage`, and goes on from the
    initial weights with a new optimiser. `progress` and `resume` carry what was learnt on the way through a
    checkpoint; none of it is weights. A run that does not resume begins with `restart`: what an earlier one learnt may
    come from images that this one must not know.

    Several processes: the value is that of the whole batch on each of them, and the *mean* of their gradients, which
    is what DDP steps with, is its gradient (`global_means`).
    """

    @abstractmethod
    def reduce(self, losses: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The loss of a batch, 0-dim, from losses ``[B]``; images with ``counted`` False take no part."""

    def forward(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The loss of logits ``[B, K]``, 0-dim; ``batch`` follows :mod:`erode.batch`."""
        return self.reduce(F.cross_entropy(logits.float(), batch["label"], reduction="none"), batch)

    @property
    def asks_for_groups(self) -> bool:
        """Whether `begin` has to be called: it costs one pass over the training images."""
        return False

    @property
    def stage_end(self) -> int | None:
        """Optimiser steps after which this stage ends; None = with the run."""
        return None

    @property
    def learns(self) -> bool:
        """Whether the losses of earlier steps have a part in later ones; so, if there is `progress`."""
        return type(self).progress is not ClassificationObjective.progress

    def begin(self, data: TrainingSet) -> None:
        """Look at the training images before the first step."""

    def next_stage(self, data: TrainingSet) -> None:
        """Look at what the first stage makes of the training images; before a second one."""

    def restart(self) -> None:
        """Forget what an earlier run changed; called before `begin`, which sets the rest."""

    def progress(self) -> dict[str, Any]:
        """What training changed, as plain data and tensors, for checkpoints."""
        return {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what `progress` gave; called after `begin`."""


def global_means(losses: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss of each group over the batches of all processes.

    Sums and sizes are added over processes, so every process sees the same value. Gradients flow to its own images,
    scaled by the number of processes: their mean is the gradient of the value.

    Args:
        losses: ``[B]``, of this process.
        members: bool ``[G, B]``: which image belongs to which group.

    Returns:
        (means ``[G]``, 0 for an empty group; sizes ``[G]``).

    Example:
        >>> members = torch.tensor([[True, True, False], [False, False, False]])
        >>> global_means(torch.tensor([1.0, 3.0, 9.0]), members)
        (tensor([2., 0.]), tensor([2., 0.]))
    """
    own = torch.where(members, losses, 0.0).sum(1)
    totals = torch.stack([own.detach(), members.sum(1).to(own)])
    processes = 1
    if dist.is_available() and dist.is_initialized():
        processes = dist.get_world_size()
        dist.all_reduce(totals)
    sums, sizes = totals
    divisor = sizes.clamp(min=1)
    share = processes * own / divisor
    return sums / divisor + share - share.detach(), sizes
