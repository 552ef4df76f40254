"""Counting pixels: fused cell indices and exact integer tables, the state of most metrics here.

Integers add up the same in any order, so a sum over processes equals a sum in one process to the last digit.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor

from ..batch import UNKNOWN_ARTEFACT, UNKNOWN_FLAG


def check_classes(name: str, classes: Tensor, num_classes: int) -> None:
    """Check that a map holds class indices.

    Args:
        name: what the map is called in the error.
        classes: ``[B, *spatial]``.
        num_classes: number of classes, background included.

    Raises:
        ValueError: if it holds floats, lacks a pixel dimension, or leaves the range 0..num_classes-1.

    Example:
        >>> check_classes("pred", torch.tensor([[0, 3]]), num_classes=2)
        Traceback (most recent call last):
        ...
        ValueError: pred holds classes 0..3, but num_classes=2 allows 0..1
    """
    if classes.is_floating_point() or classes.is_complex():
        raise ValueError(f"{name} must hold integer classes, got {classes.dtype}; take logits.argmax(dim=1)")
    if classes.ndim < 2:
        raise ValueError(f"{name} must be [B, *spatial], got shape {list(classes.shape)}")
    if classes.numel() == 0:
        return
    low, high = (int(x) for x in torch.aminmax(classes.byte() if classes.dtype == torch.bool else classes))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} holds classes {low}..{high}, but num_classes={num_classes} allows 0..{num_classes - 1}"
        )


def check_flags(flags: Tensor, images: Tensor) -> None:
    """Check that flags tell of each image whether it shows an artefact.

    Args:
        flags: should be ``[B]``, each 1, 0 or ``UNKNOWN_FLAG``.
        images: ``[B, ...]``.

    Raises:
        ValueError: if they do not.

    Example:
        >>> check_flags(torch.tensor([0, 2]), torch.zeros(2, 3))
        Traceback (most recent call last):
        ...
        ValueError: flags must be -1, 0 or 1 for each of 2 images, got shape [2] and values [0, 2]
    """
    known = bool(((flags >= UNKNOWN_FLAG) & (flags <= 1)).all())
    if not known or flags.shape != images.shape[:1]:
        raise ValueError(
            f"flags must be {UNKNOWN_FLAG}, 0 or 1 for each of {len(images)} images, got shape {list(flags.shape)} and "
            f"values {sorted(set(flags.flatten().tolist()))}"
        )


def check_shapes(**maps: Tensor) -> None:
    """Check that all maps cover the same pixels.

    Args:
        maps: named maps ``[B, *spatial]``.

    Raises:
        ValueError: naming the shapes, if they differ.

    Example:
        >>> check_shapes(pred=torch.zeros(1, 2), mask=torch.zeros(1, 2))
    """
    shapes = {name: list(value.shape) for name, value in maps.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise ValueError(f"maps must have one shape [B, *spatial], got {shapes}")


def keep_counted(counted: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Leave out the images that only pad a distributed batch.

    Args:
        counted: bool ``[B]``, False = copy of an image seen elsewhere; None = all images count.
        tensors: ``[B, ...]`` each.

    Returns:
        The tensors without the images that do not count.

    Raises:
        ValueError: if ``counted`` is no bool tensor of one value per image.

    Example:
        >>> keep_counted(torch.tensor([True, False]), torch.tensor([[1], [2]]))
        (tensor([[1]]),)
    """
    if counted is None:
        return tensors
    if counted.dtype != torch.bool or counted.shape != tensors[0].shape[:1]:
        raise ValueError(f"counted must be bool [{tensors[0].shape[0]}], got {counted.dtype} {list(counted.shape)}")
    # Full batches are the rule: do not copy their maps.
    return tensors if bool(counted.all()) else tuple(tensor[counted] for tensor in tensors)


def artefact_values(artefact: Tensor, num_values: int) -> Tensor:
    """Number the values of S from 1, with 0 for "not annotated".

    Args:
        artefact: ``[B, *spatial]``, bool or type of artefact, 0 = none, ``UNKNOWN_ARTEFACT`` = not annotated.
        num_values: number of values S may take; types from ``num_values - 1`` up are merged into one.

    Returns:
        uint8 ``[B, *spatial]``, 0 = not annotated, 1 = no artefact, up to ``num_values``.

    Raises:
        ValueError: if it holds floats or leaves the range 0..255.

    Example:
        >>> artefact_values(torch.tensor([[0, 1, 4, 255]]), num_values=2)
        tensor([[1, 2, 2, 0]], dtype=torch.uint8)
    """
    check_classes("artefact", artefact, UNKNOWN_ARTEFACT + 1)
    # UNKNOWN_ARTEFACT is the largest byte: one more is 0. Far faster than a comparison and a masked fill.
    return artefact.to(torch.uint8, copy=True).add_(1).clamp_(max=num_values)


def code_dtype(cells: int) -> torch.dtype:
    """What holds the number of a cell: one byte where the cells allow it.

    Example:
        >>> code_dtype(256), code_dtype(257)
        (torch.uint8, torch.int32)
    """
    return torch.uint8 if cells <= 256 else torch.int32


def fuse(*maps: tuple[Tensor, int]) -> Tensor:
    """Number the joint cells of several maps, row-major: the last map runs fastest.

    One byte per pixel where the cells allow it (up to 256): counting is then bound by memory, and an int64
    index would be eight times as much of it.

    Args:
        maps: pairs of a map ``[B, *spatial]`` and the number of values it may take.

    Returns:
        uint8 (int32 above 256 cells) ``[B, pixels]``.

    Example:
        >>> fuse((torch.tensor([[0, 1, 1]]), 2), (torch.tensor([[2, 0, 1]]), 3))
        tensor([[2, 3, 4]], dtype=torch.uint8)
    """
    dtype = code_dtype(prod(size for _, size in maps))
    codes = maps[0][0].to(dtype, copy=True)
    for values, size in maps[1:]:
        codes.mul_(size).add_(values.to(dtype))
    return codes.flatten(1)


def count_cells(codes: Tensor, cells: int, by: Literal["all", "image", "pixel"] = "all") -> Tensor:
    """Count how often each cell occurs.

    Args:
        codes: cell numbers ``[B, pixels]`` from `fuse`.
        cells: number of cells.
        by: one table for all, one per image, or one per pixel position.

    Returns:
        int64 ``[cells]``, ``[B, cells]`` or ``[pixels, cells]``.

    Example:
        >>> count_cells(torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8), 2, by="image")
        tensor([[1, 1],
                [0, 2]])
    """
    if by == "all":
        return torch.bincount(codes.flatten(), minlength=cells)
    dim = 0 if by == "image" else 1
    tables = codes.shape[dim]
    offset = torch.arange(tables, dtype=torch.int32, device=codes.device).unsqueeze(1 - dim) * cells
    return torch.bincount((codes + offset).flatten(), minlength=tables * cells).view(tables, cells)


def canonical_order(rows: Tensor) -> Tensor:
    """Sort rows lexicographically, so that seeded resampling does not depend on who gathered them.

    Args:
        rows: integers ``[N, M]``.

    Returns:
        The same rows, sorted.

    Example:
        >>> canonical_order(torch.tensor([[2, 0], [1, 9], [1, 3]]))
        tensor([[1, 3],
                [1, 9],
                [2, 0]])
    """
    _, rank = torch.unique(rows, dim=0, return_inverse=True)
    return rows[rank.argsort(stable=True)]
