"""Masks in palette pictures: whether a pixel means its index or the colour that the index stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError


def palette_values(path: Path, indices: NDArray[Any], palette: NDArray[np.uint8]) -> NDArray[Any]:
    """One number per pixel of a palette picture whose values nobody named, 0 for the background.

    Where all colours in use are grey, the colours count: programs that reduce a mask of 0 and 255 to a palette number
    the greys as they like, often white first. Other palettes colour classes, and indices count, as in Pascal VOC; the
    first colour must be black then, or nothing says which index is the background.

    Args:
        path: the file, for messages.
        indices: ``[*spatial]``.
        palette: ``[entries, 3]``.

    Returns:
        ``[*spatial]``, grey values or indices.

    Raises:
        DataError: where neither reading is safe: the first colour of a coloured palette is not black, several indices
            in use have one grey, or the palette lacks some.

    Example:
        >>> white_first = np.array([[255, 255, 255], [0, 0, 0]], np.uint8)
        >>> palette_values(Path("a.png"), np.array([[0, 1]]), white_first).tolist()
        [[255, 0]]
    """
    used = np.flatnonzero(np.bincount(indices.ravel()))
    remedy = "name the class of each palette index in mask_values, or save the mask without a palette"
    if used.max(initial=0) >= len(palette):
        raise DataError(f"{path} holds the palette index {used.max()}, which its palette does not colour: {remedy}")
    colours = palette[used]
    if (colours == colours[:, :1]).all():
        if len(np.unique(colours[:, 0])) < len(used):
            raise DataError(f"{path} gives several of its palette indices one and the same grey: {remedy}")
        return np.asarray(palette[indices, 0])
    if palette[0].any():
        raise DataError(
            f"{path} has a palette in colour whose first entry is not black, so that no index is known to be the "
            f"background: {remedy}"
        )
    return indices
