"""What a Lightning Trainer holds and declares nowhere."""

from __future__ import annotations

from typing import Any


def callbacks_of(trainer: Any) -> list[Any]:
    """The callbacks of a Trainer, in the order in which they are called; the very list, so that it can be changed.

    Example:
        >>> from lightning.pytorch import Callback, Trainer
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Callback()])
        >>> any(type(callback) is Callback for callback in callbacks_of(trainer))
        True
    """
    callbacks: list[Any] = trainer.callbacks
    return callbacks


def runs_fast(trainer: Any) -> bool:
    """Whether a run only tries whether the code works (``fast_dev_run``), and leaves nothing behind."""
    return bool(trainer.fast_dev_run)
