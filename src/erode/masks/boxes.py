"""The filled bounding box as a coarsening (theory §1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .coarsen import Coarsening, Region, Spacing

RADIUS_BIN = 0.05


@dataclass(frozen=True)
class BoundingBox(Coarsening):
    """Filled bounding box of the fine mask, or one for each of its connected components.

    Components touch across corners too. Boxes end at the image edge.

    Position is the normalised elliptical radius: 0 at the centre of the box, 1 on the inscribed ellipse, at
    most √2 in the corners of a 2-D box (√3 in 3-D). It knows the coarse region alone: with ``per_component``,
    boxes that touch or overlap are one component of it, and count as their common box.

    Args:
        padding: pixels added on every side.
        per_component: one box for each connected component rather than one for the whole mask.

    Raises:
        ValueError: if the padding is negative.

    Example:
        >>> mask = np.eye(4, dtype=np.uint8)
        >>> mask[3, 3] = 0
        >>> BoundingBox()(mask)
        array([[1, 1, 1, 0],
               [1, 1, 1, 0],
               [1, 1, 1, 0],
               [0, 0, 0, 0]], dtype=uint8)
    """

    padding: int = 0
    per_component: bool = False

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding must be ≥ 0, got {self.padding}")

    def region(self, foreground: Region, spacing: Spacing = None) -> Region:
        """Boxes of the foreground; counted in pixels, whatever the spacing."""
        region = np.zeros_like(foreground)
        for box, _ in self._boxes(foreground):
            # A slice may end beyond the array, but a negative start would count from the far side.
            region[tuple(slice(max(0, s.start - self.padding), s.stop + self.padding) for s in box)] = True
        return region

    def position(self, region: Region, spacing: Spacing = None) -> NDArray[np.float32]:
        """Normalised elliptical radius, free of units."""
        radius = np.full(region.shape, np.nan, dtype=np.float32)
        for box, inside in self._boxes(region):
            squares = [np.square((2 * np.arange(n) + 1 - n) / n) for n in inside.shape]
            inner = np.sqrt(sum(np.ix_(*squares)))
            radius[box] = np.where(inside, inner, radius[box])
        return radius

    @property
    def position_edges(self) -> NDArray[np.float32]:
        """Bins of 0.05 up to √3, the corner of a 3-D box."""
        return (np.arange(math.ceil(math.sqrt(3) / RADIUS_BIN) + 1) * RADIUS_BIN).astype(np.float32)

    def _boxes(self, region: Region) -> Iterator[tuple[tuple[slice, ...], Region]]:
        """Box of each component, or of all, and the pixels in it that belong to the component."""
        if self.per_component:
            components, _ = ndimage.label(region, structure=np.ones((3,) * region.ndim))
        else:
            components = region.astype(np.int8)
        for number, box in enumerate(ndimage.find_objects(components), start=1):
            yield box, components[box] == number
