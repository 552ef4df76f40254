"""How many samples may be removed, over all steps and coordinates of a training run (theory §5, PCMU)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class RemovalBudgets:
    """Counts the budgets of all steps and coordinates; nothing else of them is kept.

    A whole run is the same without any m samples if m is within the budget of every step and coordinate: then by
    induction each step starts at the same weights and is the same.

    Args:
        samples: n; budgets lie in [0, n - 1].
        counts: how often each budget occurred so far, of an account that goes on.

    Raises:
        ValueError: if the counts are not n numbers.

    Example:
        >>> budgets = RemovalBudgets(samples=4)
        >>> budgets.add(np.array([3, 1, 2, 1]))
        >>> budgets.minimum, budgets.quantile(0.5), budgets.fraction(2), budgets.fraction(1)
        (1, 1, 0.5, 1.0)
    """

    def __init__(self, samples: int, counts: Sequence[int] | None = None) -> None:
        self.samples = samples
        self._counts = np.zeros(samples, np.int64) if counts is None else np.asarray(counts, np.int64)
        if self._counts.shape != (samples,):
            raise ValueError(f"{samples} samples have {samples} possible budgets, got counts of {len(self._counts)}")

    @property
    def counts(self) -> list[int]:
        """How often each budget occurred, from 0 on."""
        return [int(count) for count in self._counts]

    @property
    def minimum(self) -> int:
        """Removals that the whole run withstands; 0 before the first step."""
        return self.quantile(0.0)

    def add(self, budgets: NDArray[np.int64]) -> None:
        """Count the budgets of one step, of any shape."""
        self._counts += np.bincount(budgets.ravel(), minlength=self.samples)

    def quantile(self, level: float) -> int:
        """Smallest budget that at least this part of all does not exceed."""
        total = int(self._counts.sum())
        if total == 0:
            return 0
        return int(np.searchsorted(np.cumsum(self._counts), max(1, int(np.ceil(level * total)))))

    def fraction(self, removed: int) -> float:
        """Part of all coordinates and steps that is certified for ``removed`` samples."""
        total = int(self._counts.sum())
        return float(self._counts[removed:].sum() / total) if total else 0.0
