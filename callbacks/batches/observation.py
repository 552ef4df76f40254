"""Reading anyone's batches, predicting them, and the weights that a run began with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy

from .borrowed_weights import call_with, named_tensors

Key = str | int
"""Where a batch keeps something: a key of a dict, or a position in a tuple."""

Weights = Mapping[str, Tensor]
"""Parameters and buffers by name, on the CPU."""


def entry(batch: Any, key: Key, argument: str) -> Any:
    """Read an entry of a batch.

    Args:
        batch: a dict, tuple or list.
        key: where to look.
        argument: name of the argument that holds the key, for the error.

    Raises:
        MisconfigurationException: if it is not there, naming what is.

    Example:
        >>> entry({"image": 1}, "image", "image_key")
        1
    """
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        has = sorted(map(str, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        if isinstance(batch, (tuple, list)):
            has = f"{has} with positions 0..{len(batch) - 1}"
        raise MisconfigurationException(
            f"the batch has no entry {key!r}, it is {has}; set {argument} to where it is"
        ) from None


def pixels_per_image(batch: Any) -> int | None:
    """Pixels, or voxels, of one image of anyone's batch; None where no image is found.

    The image is the entry ``image`` of a dict, else the first floating-point tensor ``[B, C, *spatial]``.

    Example:
        >>> pixels_per_image({"image": torch.zeros(2, 3, 8, 4)}), pixels_per_image((torch.zeros(2, 1, 4, 4, 4), 0))
        (32, 64)
    """
    entries = list(batch.values()) if isinstance(batch, Mapping) else batch
    if isinstance(batch, Mapping) and "image" in batch:
        entries = [batch["image"]]
    for value in entries if isinstance(entries, (list, tuple)) else [entries]:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 4:
            return math.prod(value.shape[2:])
    return None


def class_map(value: Tensor, image: Tensor) -> Tensor:
    """A mask as integers ``[B, *spatial]``, without the channel axis some loaders add.

    Example:
        >>> class_map(torch.ones(2, 1, 4, 4), torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 4, 4])
    """
    return (value[:, 0] if value.ndim == image.ndim and value.shape[1] == 1 else value).long()


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
