"""Coarsenings that dilate: by a disk, by a square, by a specificity window (theory §1).

Position in a dilated region is *depth*: the distance to the nearest pixel of the image outside the region.
A pixel of the fine mask has its whole structuring element inside the coarse region, so it lies deeper than
the half-width: every pixel at depth ≤ half-width is ring. The image edge is no border: a lesion that it cuts
goes on beyond it, and the bound above needs only pixels that exist. A region that fills the image is of
infinite depth.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .coarsen import Coarsening, Mask, Region, Spacing, check_spacing

DEPTH_BINS = 256
"""Depths beyond this many bins share the last one: deep inside, the position says nothing more."""

ROUNDING = 1 + 1e-9
"""Three pixels of 0.1 mm are 0.30000000000000004 mm and still lie within 0.3 mm."""


@dataclass(frozen=True)
class DiskDilation(Coarsening):
    """All pixels within a Euclidean distance of the fine mask (a ball in 3-D), centre to centre.

    The literature's *specificity* runs the other way: a larger half-width is a less specific mask.

    Args:
        half_width: h ≥ 0 in pixels, or in the unit of the spacing where one is given; 0 = the exact mask.

    Raises:
        ValueError: if the half-width is negative or not finite.

    Example:
        >>> region = DiskDilation(half_width=1).region(np.eye(3, dtype=bool))
        >>> region.astype(int)
        array([[1, 1, 0],
               [1, 1, 1],
               [0, 1, 1]])
    """

    half_width: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_width", float(self.half_width))  # so that 3 and 3.0 describe alike
        if not 0 <= self.half_width < math.inf:
            raise ValueError(f"half_width must be ≥ 0 and finite, got {self.half_width}")

    def region(self, foreground: Region, spacing: Spacing = None) -> Region:
        """Pixels within ``half_width`` of the foreground."""
        within: Region = dilations(foreground, [self.half_width], spacing)[0]
        return within

    def position(self, region: Region, spacing: Spacing = None) -> NDArray[np.float32]:
        """Euclidean depth, in pixels or in the unit of the spacing."""
        depth = ndimage.distance_transform_edt(region, sampling=check_spacing(spacing, region.ndim))
        return _inside(depth, region)

    @property
    def position_edges(self) -> NDArray[np.float32]:
        """Bins of at most one pixel (or unit), one of whose edges is ``half_width``, where the ring ends."""
        steps = max(1, math.ceil(self.half_width))
        width = self.half_width / steps
        if width < 1e-3:  # next to the exact mask: bins of this width would not reach anywhere
            width = 1.0
        return (np.arange(DEPTH_BINS + 1) * width).astype(np.float32)


class _BoxDilation(Coarsening):
    """Dilation by a box of pixels, whose half-width may depend on the side of the image."""

    @abstractmethod
    def _half_widths(self, shape: tuple[int, ...]) -> list[int]:
        """Half-width of the box along each axis of an image of this shape, in pixels."""

    def region(self, foreground: Region, spacing: Spacing = None) -> Region:
        """Pixels whose window meets the foreground; counted in pixels, whatever the spacing."""
        widths = [min(w, n - 1) for w, n in zip(self._half_widths(foreground.shape), foreground.shape, strict=True)]
        size = [2 * width + 1 for width in widths]
        found = ndimage.maximum_filter(foreground.view(np.uint8), size=size, mode="constant", cval=0)
        return np.asarray(found, dtype=np.bool_)

    def position(self, region: Region, spacing: Spacing = None) -> NDArray[np.float32]:
        """Chessboard depth in pixels, whatever the spacing."""
        return _inside(ndimage.distance_transform_cdt(region, metric="chessboard"), region)

    @property
    def position_edges(self) -> NDArray[np.float32]:
        """One bin per pixel of depth."""
        return np.arange(DEPTH_BINS + 1, dtype=np.float32)


@dataclass(frozen=True)
class SquareDilation(_BoxDilation):
    """All pixels within a chessboard distance of the fine mask (a cube in 3-D).

    Args:
        half_width: h ≥ 0 in pixels; 0 = the exact mask.

    Raises:
        ValueError: if the half-width is negative.

    Example:
        >>> mask = np.zeros((4, 4), dtype=np.uint8)
        >>> mask[0, 0] = 1
        >>> int(SquareDilation(half_width=2)(mask).sum())
        9
    """

    half_width: int

    def __post_init__(self) -> None:
        if self.half_width < 0:
            raise ValueError(f"half_width must be ≥ 0, got {self.half_width}")

    def _half_widths(self, shape: tuple[int, ...]) -> list[int]:
        return [self.half_width] * len(shape)


@dataclass(frozen=True)
class SpecificityWindow(_BoxDilation):
    """Spatial specificity of Saab et al.: 1 where a foreground pixel is nearer than ⌊n/r⌋ along each axis.

    r = 1 makes the whole image positive, r = n is the exact mask. On an image that is not square, n is the
    side along each axis in turn: r = 1 stays the image label, and each axis loses the same share of detail.

    Args:
        specificity: r ≥ 1; *larger is finer*.

    Raises:
        ValueError: if r < 1, or when called on an image with a side shorter than r (⌊n/r⌋ would be 0).

    Source:
        Saab et al., "Reducing reliance on spurious features in medical image classification with spatial
        specificity" (MLHC 2022), §3.1.

    Example:
        >>> mask = np.zeros((8, 8), dtype=np.uint8)
        >>> mask[4, 4] = 1
        >>> [int(SpecificityWindow(specificity=r)(mask).sum()) for r in (1, 4, 8)]
        [64, 9, 1]
    """

    specificity: int

    def __post_init__(self) -> None:
        if self.specificity < 1:
            raise ValueError(f"specificity must be ≥ 1 (the whole image), got {self.specificity}")

    def _half_widths(self, shape: tuple[int, ...]) -> list[int]:
        if self.specificity > min(shape):
            raise ValueError(
                f"specificity {self.specificity} exceeds the shortest side of an image {list(shape)}; "
                f"use at most {min(shape)}, or larger images"
            )
        return [side // self.specificity - 1 for side in shape]


def dilations(mask: Mask, half_widths: Sequence[float], spacing: Spacing = None) -> Region:
    """Disk dilations for many half-widths from a single Euclidean distance transform.

    Args:
        mask: class mask ``[*spatial]``; anything but 0 is foreground.
        half_widths: ``[H]`` half-widths ≥ 0, in pixels or in the unit of the spacing.
        spacing: pixel size along each axis.

    Returns:
        Boolean ``[H, *spatial]``; all False for an empty mask.

    Example:
        >>> mask = np.array([[0, 0, 0, 1]])
        >>> dilations(mask, [0, 1, 2.5]).astype(int).tolist()
        [[[0, 0, 0, 1]], [[0, 0, 1, 1]], [[0, 1, 1, 1]]]
    """
    background = mask == 0
    limits = np.asarray(half_widths, dtype=np.float64).reshape(-1, *[1] * mask.ndim)
    if background.all():
        return np.zeros((len(half_widths), *mask.shape), dtype=np.bool_)
    distance = ndimage.distance_transform_edt(background, sampling=check_spacing(spacing, mask.ndim))
    return np.asarray(distance <= limits * ROUNDING, dtype=np.bool_)


def _inside(depth: NDArray[np.generic], region: Region) -> NDArray[np.float32]:
    """Depth in the region, infinite if it has no border (scipy makes numbers up there), NaN outside."""
    if region.all():
        return np.full(region.shape, np.inf, dtype=np.float32)
    return np.where(region, depth, np.nan).astype(np.float32)
