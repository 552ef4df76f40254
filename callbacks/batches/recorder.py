"""Keeps the account of one run: what its batches held, and which tensors may have learnt it (theory §4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ...lightning_state import datamodule_of
from ...requests.ledger import Exposure, Ledger, set_of, union
from ...weights import state_digest
from .served import split_of


class Recorder:
    """Turns the ledger of the weights that a run starts from into that of the weights it holds now.

    A tensor that may have changed takes over what the run's batches held and what *any* tensor of the network was
    exposed to before: its gradients came through all of them. A tensor has not changed if it equals its start bit for
    bit *and*, as far as there were batches, is a parameter that never required a gradient, or a buffer of no
    normalisation layer in training mode. What changed without a batch, and without anything read beside them that was
    announced, learnt from nobody knows what: unknown. So is all that changed before a first batch, announced or not:
    it may have been loaded.

    Args:
        history: ledger of the weights that the module holds.
        module: about to train.
        episode: plain data on the run, for the ledger.

    Raises:
        ValueError: if the history is that of other weights.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> recorder = Recorder(Ledger.unexposed(layer.state_dict(), "initialisation"), layer, {})
        >>> recorder.before_batch(layer, Exposure(unknown=True))
        >>> recorder.ledger(layer.state_dict()).exposure.unknown
        True
    """

    def __init__(self, history: Ledger, module: nn.Module, episode: Mapping[str, Any]) -> None:
        state = tensors_of(module)
        history.check_weights(state, "the start of this run")
        self._history = history
        self._episode = dict(episode)
        self._seen = Exposure()
        self._batches = 0
        self._read = False
        self._touched: set[str] = set()
        self._start = {name: state_digest({"": t}) for name, t in state.items()}

    def before_batch(self, module: nn.Module, exposure: Exposure, training: bool = True) -> None:
        """Count a batch before the module sees it.

        Args:
            module: about to see it.
            exposure: what it holds.
            training: False for validation, which steers schedules and the choice of checkpoints.
        """
        self._seen = self._seen | exposure
        if training:
            # Hooks of the module come after those of callbacks, and may have loaded weights since the account began.
            if not self._batches and self._changed(tensors_of(module), set()):
                self._history = Ledger.unknown(tensors_of(module))
            self._batches += 1
            self._touched |= self._learning(module)

    def read_beside(self, exposure: Exposure) -> None:
        """Count what was read of the training set beside its batches.

        Args:
            exposure: what that held.
        """
        self._seen = self._seen | exposure
        self._read = True

    def ledger(self, state: Mapping[str, Tensor]) -> Ledger:
        """The ledger of the weights of this moment; in a distributed run every process has to ask.

        Args:
            state: parameters and persistent buffers by name.
        """
        seen, read = union(_gathered(self._seen)), any(_gathered(self._read))
        before = self._history.exposures
        if state.keys() != before.keys():
            return Ledger.unknown(state)  # another callback saves other tensors than the module holds
        touched = {name for names in _gathered(self._touched) for name in names}
        changed = self._changed(state, touched)
        if changed and not (self._batches or read):
            seen = seen | Exposure(unknown=True)
        touched |= changed
        learnt = union([*set_of(before.values()), seen]) if touched else seen
        return Ledger(
            state_digest(state),
            {name: learnt if name in touched else before[name] for name in state},
            self._history.steps + self._batches,
            (*self._history.episodes, {**self._episode, "batches": self._batches, "held": seen.content()}),
        )

    def _changed(self, state: Mapping[str, Tensor], known: set[str]) -> set[str]:
        """Names of tensors, but for known ones, that no longer are what they were at the start."""
        start = self._start.items()
        return {n for n, d in start if n not in known and (n not in state or state_digest({"": state[n]}) != d)}

    @staticmethod
    def _learning(module: nn.Module) -> set[str]:
        """Names of tensors that a training batch may change now."""
        names = {name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
        for prefix, layer in module.named_modules(remove_duplicate=False):
            if isinstance(layer, _NormBase) and layer.training and layer.track_running_stats:
                names |= {f"{prefix}.{name}" if prefix else name for name, _ in layer.named_buffers(recurse=False)}
        return names


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name."""
    return tensors_in(module.state_dict())


def tensors_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict without what layers keep beside their tensors."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def episode_of(trainer: Trainer, source: str) -> dict[str, Any]:
    """What a ledger says of a run."""
    data = datamodule_of(trainer)
    split, view = split_of(trainer), getattr(data, "view", None)
    return {
        "data": None if data is None else type(data).__name__,
        "view": None if view is None else str(view),
        "split": None if split is None else split.digest,
        "atoms_read_from": source,
        "resumed": trainer.ckpt_path is not None,
    }


def check_strategy(trainer: Trainer, module: LightningModule) -> None:
    """Refuse strategies under which no process holds all weights.

    Raises:
        MisconfigurationException: naming the strategy.
    """
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy):
        raise MisconfigurationException(
            f"{type(trainer.strategy).__name__} shards the weights of {type(module).__name__}, and a ledger belongs to "
            "whole weights; use one device or strategy='ddp'"
        )


def _gathered(value: Any) -> list[Any]:
    """The value of every process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
