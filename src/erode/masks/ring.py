"""The ring between a fine and a coarse mask, and how tight the coarse mask is (theory §1, §7.4)."""

from __future__ import annotations

import numpy as np

from .coarsen import Mask, Region


def ring(fine: Mask, coarse: Mask) -> Region:
    """The dilation artefact: foreground under the coarse mask, background under the fine one.

    Args:
        fine: fine class mask ``[*spatial]``.
        coarse: coarse class mask ``[*spatial]``.

    Returns:
        Boolean ``[*spatial]``.

    Raises:
        ValueError: if the shapes differ, or a fine foreground pixel is coarse background.

    Example:
        >>> ring(np.array([[0, 1, 0, 0]]), np.array([[1, 1, 1, 0]])).astype(int)
        array([[1, 0, 1, 0]])
    """
    if fine.shape != coarse.shape:
        raise ValueError(f"fine and coarse masks differ in shape: {list(fine.shape)}, {list(coarse.shape)}")
    inside, lesion = coarse != 0, fine != 0
    stray = int(np.count_nonzero(lesion & ~inside))
    if stray:
        raise ValueError(
            f"{stray} foreground pixels of the fine mask are background in the coarse one, which must "
            "contain it; check that both belong to this image, or take their union as coarse mask"
        )
    return np.asarray(inside & ~lesion, dtype=np.bool_)


def tightness(fine: Mask, coarse: Mask) -> float:
    """Share γ = |Y| / |Ỹ| of the coarse region that is lesion; NaN where the coarse mask is empty.

    Refining lowers the information between artefact and label only from γ ≈ .63 upwards (theory §7.4).

    Raises:
        ValueError: as `ring`.

    Example:
        >>> tightness(np.array([[0, 1, 0, 0]]), np.array([[1, 1, 0, 0]]))
        0.5
    """
    total = int(np.count_nonzero(coarse))
    spare = int(np.count_nonzero(ring(fine, coarse)))
    return (total - spare) / total if total else float("nan")
