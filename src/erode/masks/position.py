"""The position prior: how often a pixel of a coarse region is lesion, given where in the region it lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..batch import NO_PRIOR
from .coarsen import Coarsening, Mask, Region, Spacing
from .ring import ring

SMOOTHING = 8.0
"""Pixels that the neighbourhood of a bin counts for against the bin's own."""

NEIGHBOUR_WEIGHT = 0.5
"""Weight of a neighbouring bin relative to the one before it."""


@dataclass(frozen=True)
class PositionPrior:
    """Table q(t) = P(fine = foreground | position t in the coarse region), from finely annotated images.

    Each bin b with n_b pixels, f_b of them lesion, shrinks towards its neighbourhood:
    ``q_b = (f_b + 8 m_b) / (n_b + 8)``, with ``m_b = Σ_c 2^-|b-c| f_c / Σ_c 2^-|b-c| n_c``. Bins with
    hundreds of pixels keep their own rate, bins without any take that of the nearest ones.

    The table is a function of the retain set: the fine masks of F and, where coarse masks were drawn by hand
    rather than derived, which pixels of F they enclose. Counts are whole numbers, so no order matters.

    Args:
        coarsening: whose positions the table is for.
        foreground: ``[bins]`` lesion pixels f_b.
        total: ``[bins]`` pixels n_b.

    Source:
        theory §2, term 3.

    Example:
        >>> from erode.masks import SquareDilation
        >>> fine = np.zeros((32, 32), dtype=np.int64)
        >>> fine[8:24, 8:24] = 1
        >>> coarsening = SquareDilation(half_width=2)
        >>> prior = PositionPrior.fit([(fine, coarsening(fine))], coarsening)
        >>> prior.table[:4].round(1)  # the outer two layers of a dilation by two are ring
        array([0., 0., 1., 1.], dtype=float32)
    """

    coarsening: Coarsening
    foreground: tuple[int, ...]
    total: tuple[int, ...]

    def __post_init__(self) -> None:
        bins = self.coarsening.position_edges.size - 1
        if len(self.foreground) != bins or len(self.total) != bins:
            raise ValueError(f"a position prior for {self.coarsening} has {bins} bins, got {len(self.total)}")
        if not all(0 <= f <= n for f, n in zip(self.foreground, self.total, strict=True)):
            raise ValueError("a bin of this position prior counts more lesion pixels than pixels; fit it again")
        if not any(self.total):
            raise ValueError(
                "a position prior needs finely annotated images with a lesion, and none was counted; "
                "raise fine_fraction, or train the retain view without the position prior"
            )

    @classmethod
    def fit(
        cls,
        pairs: Iterable[tuple[Mask, Mask]],
        coarsening: Coarsening,
        spacings: Iterable[Spacing] | None = None,
    ) -> PositionPrior:
        """Count lesion pixels by position.

        Args:
            pairs: fine and coarse mask ``[*spatial]`` of each image of F, and of no other image.
            coarsening: how the coarse masks of C were made.
            spacings: pixel size of each image, one per pair; None = lengths are in pixels.

        Raises:
            ValueError: if a coarse mask does not contain its fine mask, or no image has a lesion.
        """
        bins = coarsening.position_edges.size - 1
        foreground, total = np.zeros(bins, dtype=np.int64), np.zeros(bins, dtype=np.int64)
        sized = zip(pairs, spacings, strict=True) if spacings is not None else ((pair, None) for pair in pairs)
        for (fine, coarse), spacing in sized:
            inside = coarse != 0
            lesion = ~ring(fine, coarse)[inside]
            found = _bins(coarsening, inside, spacing)
            total += np.bincount(found, minlength=bins)
            foreground += np.bincount(found[lesion], minlength=bins)
        return cls(coarsening, tuple(foreground.tolist()), tuple(total.tolist()))

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """Probabilities q ``[bins]``."""
        foreground, total = np.array([self.foreground, self.total], dtype=np.float64)
        index = np.arange(total.size)
        weight = NEIGHBOUR_WEIGHT ** np.abs(index[:, None] - index)
        neighbourhood = (weight @ foreground) / (weight @ total)
        return np.asarray((foreground + SMOOTHING * neighbourhood) / (total + SMOOTHING), dtype=np.float32)

    def __call__(self, coarse: Mask, spacing: Spacing = None) -> NDArray[np.float32]:
        """Probability of lesion as float32 ``[*spatial]``, ``NO_PRIOR`` outside the coarse region.

        Args:
            coarse: coarse class mask ``[*spatial]``.
            spacing: pixel size along each axis.
        """
        inside = coarse != 0
        prior = np.full(coarse.shape, NO_PRIOR, dtype=np.float32)
        prior[inside] = self.table[_bins(self.coarsening, inside, spacing)]
        return prior


def _bins(coarsening: Coarsening, region: Region, spacing: Spacing) -> NDArray[np.intp]:
    """Bin of each pixel of the region, in C order."""
    edges = coarsening.position_edges
    if not region.any():
        return np.zeros(0, dtype=np.intp)
    position = coarsening.position(region, spacing)[region]
    return np.clip(np.searchsorted(edges, position, side="left") - 1, 0, edges.size - 2)
