"""The gap that a trap opens between coarse masks and fine ones, and how much of it a method closes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]

RESAMPLES = 10_000
FEWEST_SEEDS = 5
"""Fewer seeds are too few to resample."""


@dataclass(frozen=True)
class Gap:
    """What there is to win, of means over seeds.

    Args:
        low: mean of the coarse model.
        high: mean of the oracle.
        spread: the larger of their sample standard deviations over seeds; infinite with one seed, which tells none.

    Example:
        >>> Gap(0.5, 0.9, 0.1).closed(0.6).__round__(2), Gap(0.5, 0.9, 0.5).closed(0.6)
        (0.25, None)
    """

    low: float
    high: float
    spread: float

    @property
    def exists(self) -> bool:
        """Whether the oracle stands above the coarse model by more than the larger of their spreads."""
        return self.high - self.low > self.spread

    def closed(self, value: float) -> float | None:
        """Share of the gap below a value: 0 = coarse, 1 = oracle, beyond both too; None without a gap."""
        return (value - self.low) / (self.high - self.low) if self.exists else None


def gap_of(rows: Sequence[Row], metric: str) -> Gap | None:
    """The gap in one metric; None where the coarse model or the oracle is absent, or the metric undefined there.

    Args:
        rows: of all methods and seeds.
        metric: its name; larger is better.
    """
    ends = [values_of(rows, name, metric) for name in ("coarse", "oracle")]
    if any(not values or None in values for values in ends):
        return None
    low, high = ([value for value in values if value is not None] for values in ends)
    spread = max(statistics.stdev(values) if len(values) > 1 else math.inf for values in (low, high))
    return Gap(statistics.mean(low), statistics.mean(high), spread)


def closed(rows: Sequence[Row], method: str, metric: str) -> float | None:
    """Share of the gap between coarse and oracle that a method closes, of means over seeds; None without a gap.

    Args:
        rows: of all methods and seeds.
        method: whose share; the two ends have none.
        metric: its name; larger is better.
    """
    gap, values = gap_of(rows, metric), values_of(rows, method, metric)
    known = [value for value in values if value is not None]
    if gap is None or method in ("coarse", "oracle") or not known or len(known) < len(values):
        return None
    return gap.closed(statistics.mean(known))


def closed_interval(rows: Sequence[Row], method: str, metric: str) -> tuple[float, float] | None:
    """Percentile interval (95 %) of the share that a method closes, seeds resampled with all three of their values.

    Args:
        rows: of all methods and seeds.
        method: whose share.
        metric: its name; larger is better.

    Returns:
        Low and high end; None without a share, with fewer than :data:`FEWEST_SEEDS` seeds that have all three, or where
        more than one resample in forty has no gap: then the share may be anything.
    """
    if closed(rows, method, metric) is None:
        return None
    of = {(row["method"], row["seed"]): row["metrics"].get(metric) for row in rows}
    seeds = sorted({seed for _, seed in of})
    triples = [[of.get((name, seed)) for name in ("coarse", "oracle", method)] for seed in seeds]
    values = np.array([triple for triple in triples if None not in triple], dtype=np.float64)
    if len(values) < FEWEST_SEEDS:
        return None
    draws = np.random.Generator(np.random.PCG64(0)).integers(0, len(values), (RESAMPLES, len(values)))
    low, high, mean = values[draws].mean(axis=1).T
    there = high > low
    if there.mean() < 1 - 1 / 40:
        return None
    gained = mean - low
    share = np.where(there, gained / np.where(there, high - low, 1), np.copysign(np.inf, gained))
    ends = np.quantile(share, [0.025, 0.975], method="nearest")
    return float(ends[0]), float(ends[1])


def values_of(rows: Sequence[Row], method: str, metric: str) -> list[float | None]:
    """A metric of one method, seed by seed; None where it is undefined."""
    return [row["metrics"].get(metric) for row in rows if row["method"] == method]
