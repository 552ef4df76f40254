"""Predicting class maps without a trace, by the weights of a module or by those that a run began with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy

from .borrowed_weights import call_with, named_tensors

Weights = Mapping[str, Tensor]
"""Parameters and buffers by name, on the CPU."""


def initial_weights(module: LightningModule) -> dict[str, Tensor]:
    """Copy parameters and buffers to the CPU; those that do not exist yet are left out."""
    named = named_tensors(module)
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in named.items()
        if not is_lazy(tensor) and not tensor.is_meta
    }


def predict(trainer: Trainer, module: LightningModule, image: Tensor, weights: Weights | None = None) -> Tensor:
    """Predict class maps without a trace: no gradient, and every layer's mode as it was.

    Args:
        trainer: its precision is used, as for the module's own validation.
        module: maps ``[B, C, *spatial]`` to logits ``[B, K, *spatial]``.
        image: ``[B, C, *spatial]``.
        weights: used instead of the module's own, which stay untouched.

    Returns:
        int64 ``[B, *spatial]``.

    Raises:
        MisconfigurationException: if the module does not return logits of that shape.
    """
    with evaluating(module), torch.no_grad(), trainer.precision_plugin.forward_context():
        if weights is None:
            logits = module(image)
        else:
            if new := sorted(named_tensors(module).keys() - weights.keys()):
                raise MisconfigurationException(
                    f"{new[0]} was not there when the original weights were noted, before the module's own setup(), so "
                    "the original model cannot be looked at; build the network in __init__"
                )
            there = {name: tensor.to(image.device) for name, tensor in weights.items()}
            logits = call_with(module, there, image)
    if not isinstance(logits, Tensor) or logits.ndim != image.ndim or logits.shape[2:] != image.shape[2:]:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise MisconfigurationException(
            f"{type(module).__name__}(image) must return logits [B, K, *spatial] as large as the image "
            f"{list(image.shape)}, got {shape}; return them from forward"
        )
    return logits.argmax(1)


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put every layer into evaluation mode, and each back into its own afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
