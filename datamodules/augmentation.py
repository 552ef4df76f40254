"""Augmentation of whole batches, on the device the batch is on."""

from __future__ import annotations

from typing import Any

import torch

from .dataset import PIXEL_KEYS


def random_flips(batch: dict[str, Any]) -> dict[str, Any]:
    """Mirror each image of a batch along each spatial axis with probability 1/2, masks with it.

    Args:
        batch: a batch as :mod:`erode.batch` defines it.

    Returns:
        A new dict; tensors of images that were not mirrored hold the same values.

    Example:
        >>> batch = {"image": torch.arange(4.0).view(1, 1, 2, 2)}
        >>> sorted(random_flips(batch)["image"].flatten().tolist())
        [0.0, 1.0, 2.0, 3.0]
    """
    image = batch["image"]
    keys = [key for key in PIXEL_KEYS if key in batch]
    flipped = dict(batch)
    for axis in range(1, image.ndim - 1):
        chosen = torch.rand(image.shape[0], device=image.device) < 0.5
        for key in keys:
            value = flipped[key]
            # Spatial axes are counted from the end: image has a channel axis that masks lack.
            mirrored = value.flip(-axis)
            flipped[key] = torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), mirrored, value)
    return flipped
