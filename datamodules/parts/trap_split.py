"""Trap sets of one's own: artefacts that follow the label in training and turn against it in test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.random import Generator
from numpy.typing import NDArray

from ..case import Case, Part
from ..errors import DataError
from .grouped_split import check_fractions
from .trap import Trap
from .trap_optimum import most_contrary


class TrapSplit(Trap):
    """Amplify the correlation of artefacts and label in training and validation, and reverse it in test.

    Images fall into cells of equal label and flags. With bias 1, test takes the share of each cell that makes it
    contradict training most (:func:`~.trap_optimum.most_contrary`). With bias 0 it takes the same
    share of every cell, so that all parts correlate as the whole does. In between the shares are mixed, and
    ``P(artefact | positive) - P(artefact | negative)`` moves linearly from one end to the other in each part, up to
    rounding. Prevalence is that of the whole everywhere. Validation follows training: model selection learns nothing
    of the reversal.

    Parts are disjoint by construction, groups (patients, near-duplicates) are never torn, and the same images and
    seed give the same parts in whatever order the images come. Images without all of the flags are left out.

    Args:
        bias: how far, 0 (no trap) to 1 (all that the images allow).
        artefacts: names of the flags to use; None = all but ``any``.

    Raises:
        ValueError: for a bias outside [0, 1], and from :meth:`divide` for fractions without training or test.
        DataError: from :meth:`divide`, without flags or labels that could correlate.

    Source: idea and name of Bissoto et al. 2020, whose sets are published, but not how they were drawn.

    Example:
        >>> def case(y, s, i):
        ...     return Case(f"{y}{s}{i}", label=y, part="train", flags={"ink": s})
        >>> cases = [case(y, s, i) for y in (0, 1) for s in (0, 1) for i in range(12 if y == s else 8)]
        >>> parts = TrapSplit(bias=1.0).divide(cases, [case.label == 1 for case in cases], (0.5, 0.1, 0.4), seed=0)
        >>> [sum(c.flags["ink"] for c in parts if c.part == "test" and c.label == y) for y in (0, 1)]  # of 8 each
        [8, 0]
    """

    def __init__(self, bias: float = 1.0, artefacts: Sequence[str] | None = None) -> None:
        if not 0 <= bias <= 1:
            raise ValueError(f"bias must lie between 0 (no trap) and 1 (all that the images allow), got {bias}")
        self.bias = bias
        self.artefacts = None if artefacts is None else tuple(artefacts)

    def divide(
        self,
        cases: Sequence[Case],
        positive: Sequence[bool],
        fractions: tuple[float, float, float] | None,
        seed: int,
    ) -> list[Case]:
        """Put the cases that have all flags into parts; see :class:`~erode.datamodules.parts.trap.Trap`."""
        if fractions is None:
            raise DataError("TrapSplit divides anew, not as the source does: set fractions")
        check_fractions(fractions)
        if fractions[0] == 0 or fractions[2] == 0:
            raise ValueError(f"a trap needs a training and a test part, got the fractions {fractions}")
        names = self._names(cases)
        known = [index for index, case in enumerate(cases) if all(name in case.flags for name in names)]
        if len(known) < len(cases):
            rank_zero_info(f"TrapSplit leaves out {len(cases) - len(known)} of {len(cases)} images: flags are unknown")
        # By id, not by place in the list: the parts must not depend on the order of files.
        known.sort(key=lambda index: cases[index].id)
        flags = np.array([[cases[index].flags[name] for name in names] for index in known], np.int64)
        labels = np.array([bool(positive[index]) for index in known])
        self._refuse_constant(labels, flags, names)
        test = (1 - self.bias) * fractions[2] + self.bias * most_contrary(labels, flags, fractions[2])
        rng = np.random.default_rng(seed)
        units = _units([cases[index].group for index in known], labels, flags, rng)
        in_test = _take(units, test, rng)
        rest = [unit for unit, taken in zip(units, in_test, strict=True) if not taken]
        validated = fractions[1] / (fractions[0] + fractions[1])
        in_val = iter(_take(rest, np.full(len(known), validated), rng))
        part_of: dict[int, Part] = {}
        for unit, taken in zip(units, in_test, strict=True):
            part: Part = "test" if taken else "val" if next(in_val) else "train"
            part_of |= {known[row]: part for row in unit}
        return [replace(case, part=part_of[i]) for i, case in enumerate(cases) if i in part_of]

    def _names(self, cases: Sequence[Case]) -> list[str]:
        found = sorted({name for case in cases for name in case.flags if name != "any"})
        if self.artefacts is None:
            if not found:
                raise DataError("no image has artefact flags to set a trap with: give a table of them")
            return found
        unknown = [name for name in self.artefacts if name not in found]
        if unknown:
            raise DataError(f"no image has the artefact flag {unknown[0]!r}: choose of {', '.join(found) or 'none'}")
        return list(self.artefacts)

    @staticmethod
    def _refuse_constant(labels: NDArray[np.bool_], flags: NDArray[np.int64], names: Sequence[str]) -> None:
        if len(labels) == 0 or labels.all() or not labels.any():
            raise DataError(
                "a trap needs positive and negative images whose flags are known: add those that are absent"
            )
        constant = [name for name, column in zip(names, flags.T, strict=True) if len(set(column.tolist())) < 2]
        if constant:
            raise DataError(
                f"{constant[0]} is the same in all images, so it cannot correlate: leave it out of artefacts"
            )


def _units(
    groups: Sequence[str], labels: NDArray[np.bool_], flags: NDArray[np.int64], rng: Generator
) -> list[list[int]]:
    """Rows that stay together; those of a cell follow one another, in random order."""
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group or f"\0{row}", []).append(row)
    units = list(members.values())
    order = rng.permutation(len(units))
    return sorted((units[index] for index in order), key=lambda rows: (bool(labels[rows[0]]), flags[rows[0]].tolist()))


def _take(units: Sequence[Sequence[int]], share: NDArray[np.float64], rng: Generator) -> list[bool]:
    """Systematic sampling with a random start: what is owed to the part never exceeds half of the largest unit.

    So each run of units, a cell or a label, gets its share up to rounding.
    """
    owed = rng.random() - 0.5
    taken = []
    for rows in units:
        owed += float(share[list(rows)].sum())
        taken.append(owed >= len(rows) / 2)
        owed -= len(rows) if taken[-1] else 0
    return taken
