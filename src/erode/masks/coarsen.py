"""What every way of making a coarse mask has in common (theory §1)."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[Any]
"""Integer (or boolean) class mask ``[*spatial]``, 2-D or 3-D, 0 = background."""

Region = NDArray[np.bool_]
Spacing = Sequence[float] | None
"""Pixel size along each axis, in any one unit; None = lengths are in pixels."""


class Coarsening(ABC):
    """A way to make a coarse mask: a function of the fine mask (and its spacing) and of nothing else.

    The coarse region contains the fine one, and has its class. Subclasses are frozen dataclasses, so that
    equal settings are equal objects, and fill in `region`, `position` and `position_edges`.

    Example:
        >>> from erode.masks import DiskDilation
        >>> mask = np.zeros((3, 5), dtype=np.int64)
        >>> mask[1, 1] = 2
        >>> DiskDilation(half_width=1)(mask)
        array([[0, 2, 0, 0, 0],
               [2, 2, 2, 0, 0],
               [0, 2, 0, 0, 0]])
        >>> DiskDilation(half_width=1).describe()
        {'name': 'DiskDilation', 'half_width': 1.0}
    """

    def __call__(self, mask: Mask, spacing: Spacing = None) -> Mask:
        """Coarse mask of a fine one.

        Args:
            mask: fine class mask ``[*spatial]``.
            spacing: pixel size along each axis; coarsenings that count in pixels leave it unused.

        Returns:
            The coarse mask, of the shape and dtype of ``mask``.

        Raises:
            ValueError: if the mask is not 2-D or 3-D, not integer, or holds two classes besides background.
        """
        label = image_class(mask)
        if label == 0:
            return mask.copy()
        region = self.region(mask != 0, check_spacing(spacing, mask.ndim))
        return np.where(region, mask.max(), np.zeros((), mask.dtype))

    @abstractmethod
    def region(self, foreground: Region, spacing: Spacing = None) -> Region:
        """Coarse region of a non-empty foreground, both boolean ``[*spatial]``."""

    @abstractmethod
    def position(self, region: Region, spacing: Spacing = None) -> NDArray[np.float32]:
        """Position t of each pixel in a coarse region (theory §2, term 3): a function of the region alone.

        Args:
            region: boolean ``[*spatial]``.
            spacing: pixel size along each axis.

        Returns:
            float32 ``[*spatial]``, NaN outside the region (0 is a position like any other).
        """

    @property
    @abstractmethod
    def position_edges(self) -> NDArray[np.float32]:
        """Increasing bin edges ``[bins + 1]`` of t. A bin holds its right edge; the last is open-ended."""

    def describe(self) -> dict[str, Any]:
        """Name and settings as plain data, for digests and reports."""
        if not dataclasses.is_dataclass(self):
            raise TypeError(f"make {type(self).__name__} a frozen dataclass, so that its settings can be told")
        return {"name": type(self).__name__, **dataclasses.asdict(self)}


def image_class(mask: Mask) -> int:
    """The one class of a mask besides background; 0 for an empty mask (single-class rule of theory §1).

    Raises:
        ValueError: if the mask is not 2-D or 3-D, not integer, or holds several classes besides background.

    Example:
        >>> image_class(np.array([[0, 3], [3, 0]]))
        3
        >>> image_class(np.array([[1, 3], [3, 0]]))
        Traceback (most recent call last):
        ...
        ValueError: a mask holds one class besides background, this one holds [1, 3]; ...
    """
    if mask.ndim not in (2, 3) or mask.size == 0:
        raise ValueError(f"a mask is [H, W] or [D, H, W] and not empty, got shape {list(mask.shape)}")
    if mask.dtype.kind not in "biu":
        raise ValueError(f"a mask holds integer classes, got dtype {mask.dtype}; take the argmax or a threshold first")
    label = mask.max()
    if label < 0 or not ((mask == 0) | (mask == label)).all():
        classes = np.unique(mask[mask != 0]).tolist()
        raise ValueError(
            f"a mask holds one class besides background, this one holds {classes}; "
            "keep one class, or split the image into one case per class"
        )
    return int(label)


def check_spacing(spacing: Spacing, ndim: int) -> tuple[float, ...] | None:
    """Spacing as a tuple, or None.

    Raises:
        ValueError: if it has not one positive finite number per axis.
    """
    if spacing is None:
        return None
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != ndim or not all(0 < size < float("inf") for size in sizes):
        raise ValueError(f"spacing must be {ndim} positive numbers, one per axis of the mask, got {list(spacing)}")
    return sizes
