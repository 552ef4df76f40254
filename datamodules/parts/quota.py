"""Balance of generated data sets."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


def quota(rng: Generator, number: int, rate: float) -> NDArray[np.bool_]:
    """Mark ``round(rate · number)`` of ``number`` images, at random places.

    Exact shares instead of independent draws: small data sets then differ in their pictures, not in their
    balance.

    Args:
        rng: source of randomness.
        number: how many images there are.
        rate: share to mark, 0 to 1.

    Returns:
        ``[number]`` bool.

    Example:
        >>> int(quota(np.random.default_rng(0), number=10, rate=0.3).sum())
        3
    """
    marked = np.arange(number) < round(rate * number)
    return rng.permutation(marked)
