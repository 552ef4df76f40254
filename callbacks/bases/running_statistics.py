"""Running statistics of normalisation layers: they were computed on the forget set, and start anew (theory §4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

Kept = list[tuple[Tensor, Tensor]]
"""Buffers, each with a value that it had."""


class RunningStatistics:
    """Resets the running mean and variance of a network and keeps them right from the first batch on.

    A fresh running mean starts at 0 and forgets that start at the rate of the layer's momentum, so after a short run
    it would still be mostly start. Here batch n enters with weight ``max(momentum, 1/n)``: a plain average until that
    is as long as the layer's own, and no trace of the start at all.

    Args:
        module: the network.

    Example:
        >>> import torch
        >>> layer = nn.BatchNorm1d(1)
        >>> statistics = RunningStatistics(layer)
        >>> _ = statistics.reset(), statistics.before_batch(), layer(torch.tensor([[1.0], [3.0]]))
        >>> layer.running_mean.item(), layer.running_var.item()
        (2.0, 2.0)
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = {
            name: layer
            for name, layer in module.named_modules()
            if isinstance(layer, _NormBase) and layer.track_running_stats
        }
        self._momenta = {name: layer.momentum for name, layer in self._layers.items()}
        self.batches = 0
        """Counted since the reset."""

    def reset(self) -> list[str]:
        """Forget all batches; returns the names of the layers that had any statistics."""
        self.batches = 0
        for layer in self._layers.values():
            layer.reset_running_stats()
        return list(self._layers)

    def before_batch(self) -> None:
        """Set the weight of the coming batch."""
        self.batches += 1
        for name, layer in self._layers.items():
            own = self._momenta[name]
            layer.momentum = None if own is None else max(own, 1 / self.batches)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let layers normalise by the batch as ever, and put running statistics back to what they were before."""
        # Layers track on meanwhile: activation checkpointing refuses a forward pass that it cannot repeat as it was.
        before = self.kept()
        try:
            yield
        finally:
            restore(before)

    def kept(self) -> Kept:
        """The statistics that a forward pass in training would change, for :func:`restore`."""
        layers = [layer for layer in self._layers.values() if layer.training]
        return [(buffer, buffer.detach().clone()) for layer in layers for buffer in layer.buffers(recurse=False)]

    def give_back(self) -> None:
        """Put the layers' own momenta back."""
        for name, layer in self._layers.items():
            layer.momentum = self._momenta[name]


def restore(kept: Kept) -> None:
    """Write kept statistics back where they changed."""
    for buffer, value in kept:
        if not torch.equal(buffer, value):
            buffer.data.copy_(value)  # unnoticed by autograd: a backward pass in training has no use for them
