"""Run-length masks of the SIIM-ACR challenge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOTHING = "-1"
"""What stands in place of the runs where an image has none."""


def decode_runs(text: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask that a line of runs stands for.

    Pairs of numbers: pixels between the end of the run before (at first: the first pixel) and this run, and pixels
    of this run. Pixels are counted down the columns, column after column.

    Args:
        text: the runs, separated by white space; ``-1`` for an empty mask.
        shape: rows and columns of the image.

    Returns:
        bool ``[rows, columns]``.

    Raises:
        ValueError: if the text is no such line, or its runs do not fit into the image.

    Source:
        Kaggle, SIIM-ACR Pneumothorax Segmentation (2019), evaluation page.

    Example:
        >>> decode_runs("1 2 1 1", (3, 2)).astype(int).tolist()
        [[0, 0], [1, 1], [1, 0]]
    """
    rows, columns = shape
    flat = np.zeros(rows * columns, bool)
    if text.strip() != NOTHING:
        starts, ends = _borders(text, flat.size)
        for start, end in zip(starts, ends, strict=True):
            flat[start:end] = True
    return flat.reshape(columns, rows).T


def _borders(text: str, size: int) -> tuple[list[int], list[int]]:
    words = text.split()
    if not words:
        raise ValueError(f"the runs are empty: write {NOTHING} for no mask")
    if len(words) % 2:
        raise ValueError(f"{len(words)} numbers are no pairs of gap and length: the line may be cut off")
    wrong = next((word for word in words if not (word.isascii() and word.isdecimal() and len(word) < 12)), None)
    if wrong is not None:
        raise ValueError(f"{wrong[:20]!r} is no count of pixels: write whole numbers from 0 on, or {NOTHING} alone")
    numbers = np.array(words, dtype=np.int64)
    if not numbers[1::2].all():
        raise ValueError("a run has length 0: leave it out")
    # Fewer than 2^24 numbers below 10^11 add up within 64 bits; no longer line fits into an image that is read here.
    if len(numbers) > 2 * size or int(numbers.sum()) > size:
        raise ValueError(
            f"the runs end beyond the {size} pixels of the image: gaps count from the end of the run before, "
            "starts counted from the first pixel are another format"
        )
    ends = np.cumsum(numbers)
    return ends[0::2].tolist(), ends[1::2].tolist()
