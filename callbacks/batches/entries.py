"""Reading the entries of anyone's batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

Key = str | int
"""Where a batch keeps something: a key of a dict, or a position in a tuple."""


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
        >>> import torch
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
        >>> import torch
        >>> class_map(torch.ones(2, 1, 4, 4), torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 4, 4])
    """
    return (value[:, 0] if value.ndim == image.ndim and value.shape[1] == 1 else value).long()
