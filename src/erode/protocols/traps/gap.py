"""The gap that a trap opens between coarse masks and fine ones, and how much of it a method closes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Row = Mapping[str, Any]

FEWEST_SEEDS = 5
"""Fewer seeds are too few for an interval."""


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
    r"""Interval (95 %) of the share that a method closes, by Fieller's theorem for the ratio of two paired means.

    With g_i what the method gains on the coarse model in seed i, and d_i what the oracle does, it holds the shares r
    at which Student's t test does not reject that g_i - r d_i has mean zero:

    .. math:: |\bar g - r \bar d| \le t_{n-1} \sqrt{\mathrm{var}(g - r d) / n}

    That is exact for normal values however few the seeds, and lies askew where the gap itself is uncertain.

    Args:
        rows: of all methods and seeds.
        method: whose share.
        metric: its name; larger is better.

    Returns:
        Low and high end; None without a share, with fewer than :data:`FEWEST_SEEDS` seeds that have all three, or where
        the gap may be none by the same test: then the share may be anything.

    Source: Fieller 1954, Some problems in interval estimation.
    """
    if closed(rows, method, metric) is None:
        return None
    of = {(row["method"], row["seed"]): row["metrics"].get(metric) for row in rows}
    seeds = sorted({seed for _, seed in of})
    triples = [[of.get((name, seed)) for name in ("coarse", "oracle", method)] for seed in seeds]
    values = np.array([triple for triple in triples if None not in triple], dtype=np.float64)
    if len(values) < FEWEST_SEEDS:
        return None
    low, high, value = values.T
    gained, gap = value - low, high - low
    # Ends: roots r of A r^2 - 2 B r + C, the inequality above squared.
    reach = stats.t.ppf(0.975, len(values) - 1) ** 2 / len(values)
    (of_gained, of_both), (_, of_gap) = np.cov(gained, gap)
    a = gap.mean() ** 2 - reach * of_gap
    b = gained.mean() * gap.mean() - reach * of_both
    c = gained.mean() ** 2 - reach * of_gained
    if gap.mean() <= 0 or a <= 0:
        return None
    half = math.sqrt(max(b**2 - a * c, 0.0))
    return float((b - half) / a), float((b + half) / a)


def values_of(rows: Sequence[Row], method: str, metric: str) -> list[float | None]:
    """A metric of one method, seed by seed; None where it is undefined."""
    return [row["metrics"].get(metric) for row in rows if row["method"] == method]
