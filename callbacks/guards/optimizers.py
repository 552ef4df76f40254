"""Optimisers and schedulers made anew: what they remember may come from the forget set (theory §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from .writes import versions


class Before(NamedTuple):
    """Optimisers and schedulers that a run began with."""

    optimizers: Sequence[Optimizer]
    schedulers: Sequence[object]

    @classmethod
    def of(cls, trainer: Trainer) -> Before:
        """Those that are in place now."""
        return cls(list(trainer.optimizers), [config.scheduler for config in trainer.lr_scheduler_configs])


def build_optimizers(trainer: Trainer, before: Before) -> None:
    """Ask ``configure_optimizers`` anew: some optimisers copy the weights when they are made.

    Args:
        trainer: of the run.
        before: what the run began with.

    Raises:
        MisconfigurationException: if it gives one that it gave before, or that has taken steps: its moments, or weights
            that it copied, come from the forget set; or if it writes weights.
    """
    weights = list(trainer.lightning_module.parameters())
    prepared = versions(weights)
    trainer.strategy.setup_optimizers(trainer)
    if versions(weights) != prepared:
        raise MisconfigurationException(
            "configure_optimizers writes the weights, such as those of a file, after they were reset or got their "
            "noise; load trained weights before fit"
        )
    for optimizer in trainer.optimizers:
        if any(optimizer is other for other in before.optimizers):
            raise _used_before(optimizer)
    check_unused(trainer)
    for config in trainer.lr_scheduler_configs:
        again = any(config.scheduler is other for other in before.schedulers)
        if again and getattr(config.scheduler, "last_epoch", 0) > 0:
            raise MisconfigurationException(
                f"configure_optimizers gave a {type(config.scheduler).__name__} that was used before; build it anew "
                "each time"
            )


def check_unused(trainer: Trainer) -> None:
    """Refuse optimisers that remember something before the run.

    State that counts no steps may be zeros, or copies of the weights as they are, as some make them at once.

    Raises:
        MisconfigurationException: naming one.
    """
    for optimizer in trainer.optimizers:
        if any(_remembers(state, weight) for weight, state in optimizer.state.items()):
            raise _used_before(optimizer)


def _used_before(optimizer: Optimizer) -> MisconfigurationException:
    return MisconfigurationException(
        f"configure_optimizers gave a {type(optimizer).__name__} that was used before; what it remembers may come from "
        "the forget set; build it anew each time"
    )


def _remembers(state: Any, weight: Tensor) -> bool:
    """Whether the state of a weight is of steps that were taken."""
    values = dict(state) if isinstance(state, Mapping) else {"": state}
    step = values.pop("step", None)
    counts = isinstance(step, (int, float, Tensor))
    if counts and float(step) > 0:
        return True
    told = [value for value in values.values() if isinstance(value, Tensor) and bool(value.any())]
    # Before the first step some hold a constant, such as Adagrad's initial sum.
    told = [value for value in told if not (counts and bool((value == value.flatten()[0]).all()))]
    return any(value.shape != weight.shape or not torch.equal(value, weight.to(value)) for value in told)
