"""Training, validation and test parts that keep patients whole and classes balanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import get_args

import numpy as np

from ..case import Part
from ..errors import DataError

PARTS: tuple[Part, ...] = get_args(Part)


def grouped_split(
    groups: Sequence[str],
    strata: Sequence[Hashable],
    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25),
    seed: int = 0,
    may_be_empty: Collection[Part] = (),
) -> list[Part]:
    """Divide cases into parts so that no group straddles two and every stratum is divided alike.

    Greedy: groups, the large ones first and in random order otherwise, go one by one where their strata are
    most wanting. Groups of one case end within rounding of the wished fractions.

    Args:
        groups: group of each case, e.g. the patient; an empty name is a group of its own. Parts depend on the order
            of the cases: sort them by id, as the DataModules here do.
        strata: stratum of each case, e.g. (class, artefact flag).
        fractions: parts of the data for training, validation and test; they sum to 1. A part with fraction 0
            stays empty.
        seed: the same seed gives the same parts.
        may_be_empty: parts that something else fills, too.

    Returns:
        The part of each case, in order.

    Raises:
        ValueError: if the fractions are no fractions.
        DataError: if a part with a positive fraction would stay empty.

    Example:
        >>> parts = grouped_split(["ann", "ann", "bob", "cem", ""], [0, 1, 0, 1, 0], (0.4, 0.2, 0.4))
        >>> parts[0] == parts[1], sorted(set(parts))
        (True, ['test', 'train', 'val'])
    """
    check_fractions(fractions)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        # No file name can hold a null character, so this collides with no group.
        members.setdefault(group or f"\0{index}", []).append(index)
    kinds = {stratum: column for column, stratum in enumerate(dict.fromkeys(strata))}
    size = np.array(list(Counter(strata).values()), float)
    # One more column counts all cases, so that rounding of rare strata does not pile up in one part.
    counts = np.zeros((len(members), len(kinds) + 1))
    for row, indices in enumerate(members.values()):
        for index in indices:
            counts[row, kinds[strata[index]]] += 1
    counts[:, -1] = counts[:, :-1].sum(axis=1)
    total = np.append(size, len(groups))
    wanting = np.outer(fractions, total)
    order = np.random.default_rng(seed).permutation(len(members))
    order = order[np.argsort(-counts[order, -1], kind="stable")]
    allowed = np.flatnonzero(np.array(fractions) > 0)
    parts: list[Part] = ["train"] * len(groups)
    names = list(members)
    for row in order:
        need = (wanting[allowed] * counts[row] / total).sum(axis=1)
        chosen = allowed[np.argmax(need)]
        wanting[chosen] -= counts[row]
        for index in members[names[row]]:
            parts[index] = PARTS[chosen]
    empty = [PARTS[part] for part in allowed if PARTS[part] not in (*parts, *may_be_empty)]
    if empty:
        raise DataError(
            f"{len(groups)} cases in {len(members)} groups leave the part {empty[0]} empty at the fractions "
            f"{fractions}: raise its fraction, or add cases"
        )
    return parts


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Refuse what is no division into training, validation and test.

    Raises:
        ValueError: if a fraction is negative, or they do not sum to 1.
    """
    if len(fractions) != len(PARTS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions of train, val and test must be at least 0 and sum to 1, got {fractions}")
