"""What every brush needs: units of length, strokes, anti-aliased lines, and the spot that things lie beside.

Lengths are in *units*: 1/64 of the shorter image side, so a picture looks the same at every size. Every brush takes
its own random generator and draws the same numbers whatever it is asked to paint, so two pictures that differ in one
respect (the class, an artefact) share everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]

UNITS = 64
"""Units of length along the shorter side of the image."""


class Artefact(IntEnum):
    """Type of an artefact, as it stands in the artefact mask (0 = none)."""

    RULER = 1
    INK = 2
    PATCH = 3
    DARK_CORNER = 4
    HAIR = 5
    TUBE = 6


@dataclass(frozen=True)
class Stroke:
    """Something opaque in the picture.

    Args:
        alpha: opacity in [0, 1], ``[height, width]``.
        colour: red, green, blue in [0, 1].
    """

    alpha: Field
    colour: Field

    def over(self, image: Field) -> Field:
        """Paint the stroke over an image ``[height, width, 3]``."""
        return image + self.alpha[..., None] * (self.colour - image)


@dataclass(frozen=True)
class Spot:
    """What artefacts lie beside.

    Args:
        mask: its pixels, ``[height, width]`` bool, at least one.
        centre: its (x, y) in units.
    """

    mask: NDArray[np.bool_]
    centre: tuple[float, float]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Spot:
        """The pixels of a mask around their centre of mass.

        Example:
            >>> Spot.of(np.eye(4, dtype=bool)).centre
            (32.0, 32.0)
        """
        x, y = grid(mask.shape)
        return cls(mask, (float(x[mask].mean()), float(y[mask].mean())))


def extent(shape: tuple[int, ...]) -> Field:
    """Width and height of an image ``[height, width]`` in units.

    Example:
        >>> extent((50, 100)).tolist()
        [128.0, 64.0]
    """
    height, width = shape
    return UNITS * np.array([width, height]) / min(shape)


@lru_cache(maxsize=4)
def grid(shape: tuple[int, ...]) -> tuple[Field, Field]:
    """Coordinates x and y of the pixel centres in units, each ``[height, width]``.

    Example:
        >>> grid((2, 2))[0].tolist()
        [[16.0, 48.0], [16.0, 48.0]]
    """
    height, width = ((np.arange(length) + 0.5) * (UNITS / min(shape)) for length in shape)
    y, x = np.meshgrid(height, width, indexing="ij")
    return x, y


def coverage(distance: Field, width: float) -> Field:
    """Anti-aliased opacity of a line of ``width`` units at ``distance`` units from its middle.

    Faint rims are cut, so that a mask of the non-zero pixels holds each pixel that the stroke changes.
    """
    alpha = np.clip(0.5 + (width / 2 - distance) * (min(distance.shape) / UNITS), 0.0, 1.0)
    return np.where(alpha < 0.3, 0.0, alpha)
