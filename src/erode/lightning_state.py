"""What a Lightning Trainer holds and declares nowhere, or not in one place."""

from __future__ import annotations

from pathlib import Path
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


def datamodule_of(trainer: Any) -> Any:
    """The DataModule of a run; None where it was given loaders."""
    return getattr(trainer, "datamodule", None)


def runs_fast(trainer: Any) -> bool:
    """Whether a run only tries whether the code works (``fast_dev_run``), and leaves nothing behind."""
    return bool(trainer.fast_dev_run)


def run_folder(trainer: Any) -> Path:
    """Where this run's files stand, none of another run's. Every process has to ask: rank 0 tells all others.

    Loggers without a folder for each run, such as Weights & Biases', give the one above; the run's lies in it as
    :class:`~lightning.pytorch.callbacks.ModelCheckpoint` calls it, by name and version.
    """
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    first = trainer.loggers[0] if trainer.loggers else None
    if first is None or first.log_dir is not None:
        return folder
    parts = [part for part in (first.name, first.version) if part is not None]
    return folder.joinpath(*map(str, trainer.strategy.broadcast(parts)))
