"""Weights that something else than an optimiser wrote, once an operator had its last word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

Version = tuple[int, int, int]


class Writes:
    """Refuses trained weights that change between two optimiser steps.

    What comes back in the middle of a run, as a hook that loads a file or a callback that restores the best weights
    does, may be from before the reset or the noise, and nothing would show it. Torch counts in-place writes; looking
    costs no copy and no digest.

    Args:
        operator: name of the callback, for messages.
    """

    def __init__(self, operator: str) -> None:
        self._operator = operator
        self._weights: list[nn.Parameter] = []
        self._versions: list[Version] = []
        self._handles: list[Any] = []
        self._looked = False

    def watch(self, trainer: Trainer) -> None:
        """Look after what the optimisers train that are in place now, and no longer after others.

        Frozen layers may be written, as averages of weights are. Optimisers that look after their weights themselves
        (``watches_weights``) are left to it, and sharded strategies, which move weights about.
        """
        self.stop()
        optimizers = trainer.optimizers
        sharded = type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy)
        if sharded or any(getattr(optimizer, "watches_weights", False) for optimizer in optimizers):
            return
        weights = {id(p): p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        self._weights = [weight for weight in weights.values() if weight.requires_grad]
        self._handles = [optimizer.register_step_post_hook(self._stepped) for optimizer in optimizers]
        self._versions = versions(self._weights)

    def before_step(self) -> None:
        """Look, at the first backward pass of a step: an optimiser may write between two.

        Raises:
            MisconfigurationException: if something wrote the weights since the step before.
        """
        if not self._looked:
            self.check()
        self._looked = True

    def check(self) -> None:
        """Look, where no step is under way.

        Raises:
            MisconfigurationException: if something wrote the weights since the last step.
        """
        if versions(self._weights) != self._versions:
            raise MisconfigurationException(
                f"something else than an optimiser wrote the weights after {self._operator} had prepared them, such as "
                "a hook that loads a file or a callback that restores the best weights, or a step was cut short: they "
                "may come from before; "
                "do that in a later fit on the released weights, and limit or average weights inside the optimiser"
            )

    def stop(self) -> None:
        """Look after nothing."""
        for handle in self._handles:
            handle.remove()
        self._weights, self._versions, self._handles, self._looked = [], [], [], False

    def _stepped(self, *_: Any) -> None:
        self._versions, self._looked = versions(self._weights), False


def versions(weights: Iterable[nn.Parameter]) -> list[Version]:
    """What changes when a weight is written or replaced.

    Torch counts in-place writes. A replaced tensor keeps its own count, so its address is watched too.
    """
    return [(p._version, p.data_ptr(), p.numel()) for p in weights]
