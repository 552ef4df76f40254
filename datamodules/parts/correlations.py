"""How artefacts and label go together in each part of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..case import Case, Part
from .grouped_split import PARTS


class Correlation(NamedTuple):
    """One artefact in one part.

    Args:
        part: the part of the data.
        artefact: name of the flag.
        images: images whose flag and label are known.
        positive: how many of them are positive.
        artefacts_positive: share of positive images that show the artefact, NaN without positive images.
        artefacts_negative: share of negative images that do.
        phi: correlation coefficient of flag and label (Matthews), -1 to 1; NaN where one of them never varies.
    """

    part: Part
    artefact: str
    images: int
    positive: int
    artefacts_positive: float
    artefacts_negative: float
    phi: float

    def plain(self) -> dict[str, str | int | float | None]:
        """By name, for JSON, which knows no NaN: None instead."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in self._asdict().items()}


def artefact_correlations(cases: Sequence[Case], is_positive: Callable[[Case], bool | None]) -> list[Correlation]:
    """Correlate every artefact flag with the label, part by part.

    Args:
        cases: images in their parts.
        is_positive: label of an image; None = unknown, left out.

    Returns:
        Parts in order, and in each the artefacts in the order in which cases name them.

    Example:
        >>> cases = [Case(f"{i}", label=i % 2, part="test", flags={"ink": i % 2}) for i in range(4)]
        >>> artefact_correlations(cases, lambda case: case.label == 1)[0].phi
        1.0
    """
    names = list(dict.fromkeys(name for case in cases for name in case.flags))
    rows = []
    for part in PARTS:
        here = [(case, label) for case in cases if case.part == part and (label := is_positive(case)) is not None]
        for name in names if here else []:
            pairs = [(case.flags[name], label) for case, label in here if name in case.flags]
            flags, labels = np.array(pairs, dtype=bool).reshape(-1, 2).T
            rows.append(
                Correlation(
                    part,
                    name,
                    len(pairs),
                    int(labels.sum()),
                    _rate(flags[labels]),
                    _rate(flags[~labels]),
                    phi(flags, labels),
                )
            )
    return rows


def phi(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Correlation coefficient of two binary variables ``[N]``; NaN where one never varies.

    Example:
        >>> phi(np.array([True, True, False, False]), np.array([True, False, False, False])).__round__(3)
        0.577
    """
    total, a, b, both = len(first), int(first.sum()), int(second.sum()), int((first & second).sum())
    spread = a * (total - a) * b * (total - b)
    return (total * both - a * b) / math.sqrt(spread) if spread else math.nan


def _rate(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else math.nan
