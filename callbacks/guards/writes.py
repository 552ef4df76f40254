"""Weights that something else than an optimiser wrote, once an operator had its last word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

Version = tuple[int, int, int]

_count = attrgetter("_version")


class Writes:
    """Refuses trained weights that change between two optimiser steps.

    What comes back in the middle of a run, as a hook that loads a file or a callback that restores the best weights
    does, may be from before the reset or the noise, and nothing would show it. Torch counts in-place writes; looking
    costs no copy and no digest.

    Trained is what an optimiser has that is not frozen, and what the loss reaches; once trained, always. Where a module
    optimises manually, it may train without an optimiser. Everything else, such as averages of weights in a frozen
    layer, may be written, but what was written may not come to be trained, nor be what the run had to get rid of.

    Args:
        operator: name of the callback, for messages.
        is_from_before: whether a tensor is a copy of what the run had to get rid of.
    """

    def __init__(self, operator: str, is_from_before: Callable[[Tensor], bool] = lambda _: False) -> None:
        self._operator = operator
        self._is_from_before = is_from_before
        self._optimizers: list[Optimizer] = []
        self._weights: list[nn.Parameter] = []
        self._versions: list[Version] = []
        self._trained: set[int] = set()
        self._written: set[int] = set()
        self._handles: list[Any] = []
        self._by_hand = False
        self._looked = False
        self._began = False

    def watch(self, trainer: Trainer) -> None:
        """Look after all parameters, and after the steps of the optimisers that are in place now.

        Optimisers that look after their weights themselves (``watches_weights``) are left to it, and sharded
        strategies, which move weights about.
        """
        self.stop()
        optimizers = trainer.optimizers
        sharded = type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy)
        if sharded or any(getattr(optimizer, "watches_weights", False) for optimizer in optimizers):
            return
        self._optimizers = list(optimizers)
        self._weights = list(trainer.lightning_module.parameters())
        self._by_hand = not trainer.lightning_module.automatic_optimization
        self._handles = [handle for optimizer in optimizers for handle in self._told_of(optimizer)]
        self._versions = versions(self._weights)

    def before_step(self) -> None:
        """Look, at the first backward pass of a step: an optimiser may write between two.

        Raises:
            MisconfigurationException: if something wrote the weights since the step before.
        """
        if not self._looked:
            self._look()
        self._looked = self._began = True

    def check(self) -> None:
        """Look, where no step is under way, once more at all that was written.

        Raises:
            MisconfigurationException: if something wrote the weights since the last step.
        """
        self._look()
        if any(self._is_from_before(weight) for weight in self._weights if id(weight) in self._written):
            raise self._refusal()

    def stop(self) -> None:
        """Look after nothing."""
        for handle in self._handles:
            handle.remove()
        self._optimizers, self._weights, self._versions, self._handles, self._looked = [], [], [], [], False
        self._trained, self._written, self._began = set(), set(), False

    def _look(self) -> None:
        self._note_trained()
        now = versions(self._weights)
        for weight, version, before in zip(self._weights, now, self._versions, strict=True):
            if version != before and id(weight) not in self._written:  # averages move at each step: one digest will do
                self._written.add(id(weight))
                if self._is_from_before(weight):
                    raise self._refusal()
        self._versions = now
        if self._written & self._trained:
            raise self._refusal()

    def _note_trained(self) -> None:
        """Optimisers' groups may grow: layers thaw one after another."""
        owned = {id(p) for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]}
        for weight in self._weights:
            reached = weight.grad is not None and not self._by_hand
            if weight.requires_grad and (reached or id(weight) in owned):
                self._trained.add(id(weight))

    def _told_of(self, optimizer: Optimizer) -> list[Any]:
        """Be told of steps, and of states that are loaded."""
        try:
            return [
                optimizer.register_step_post_hook(self._stepped),
                optimizer.register_load_state_dict_pre_hook(self._loads),
            ]
        except AttributeError as error:  # some that wrap another
            name = type(optimizer).__name__
            raise MisconfigurationException(
                f"{name} does not call Optimizer.__init__, so {self._operator} cannot tell its steps from what else "
                f"writes weights; let it call super().__init__(), or use the optimiser inside of it alone"
            ) from error

    def _loads(self, optimizer: Optimizer, *_: Any) -> None:
        if self._began:
            raise MisconfigurationException(
                f"something loads a state into {type(optimizer).__name__} in the middle of the run: what it remembers "
                f"may come from before {self._operator}; resume a run by ckpt_path, and start others anew"
            )

    def _stepped(self, *_: Any) -> None:
        self._versions, self._looked = versions(self._weights), False

    def _refusal(self) -> MisconfigurationException:
        return MisconfigurationException(
            f"something else than an optimiser wrote the weights after {self._operator} had prepared them, such as "
            "a hook that loads a file, a callback that restores the best weights, a layer that scales its own in "
            "forward (nn.Embedding(max_norm=...)), or a step was cut short: they may come from before; do that in a "
            "later fit on the released weights, and limit or average weights inside the optimiser; averages may also "
            "stand in frozen layers"
        )


def versions(weights: Sequence[nn.Parameter]) -> list[Version]:
    """What changes when a weight is written or replaced.

    Torch counts in-place writes. A replaced tensor keeps its own count, so its address is watched too.
    """
    return list(zip(map(_count, weights), map(Tensor.data_ptr, weights), map(Tensor.numel, weights), strict=True))
