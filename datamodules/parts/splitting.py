"""Which training images are to be forgotten: read from a file, given by the data, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...batch import UNKNOWN_FLAG
from ...masks import Coarsening, ForgetSplit
from ..case import Case


def read_split(path: str | Path, cases: Sequence[Case], coarsening: Coarsening) -> ForgetSplit:
    """The split of a file.

    Raises:
        ValueError: if it is not one of these cases and this coarsening.
    """
    split = ForgetSplit.load(path)
    if split.coarsening != coarsening.describe():
        raise ValueError(
            f"{path} was drawn for {dict(split.coarsening)}, the data use {coarsening.describe()}; "
            "set the coarsening of the split, or draw another"
        )
    missing = sorted({case.id for case in cases} ^ {*split.fine, *split.coarse})
    if missing:
        raise ValueError(
            f"{path} and the training images differ in {len(missing)} ids, e.g. {missing[0]}; "
            "use the split that belongs to this data, or leave split_file out to draw one"
        )
    return split


def make_split(
    cases: Sequence[Case], coarsening: Coarsening, flag: str, fine_fraction: float, seed: int
) -> ForgetSplit:
    """That of the data, where some cases have only a coarse mask; else a fraction, drawn within label and flag.

    Raises:
        ValueError: if the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"split_seed must not be negative, got {seed}")
    coarse = only_coarse(cases)
    if coarse:
        fine = [case.id for case in cases if case.id not in coarse]
        return ForgetSplit.given(fine, sorted(coarse), coarsening.describe())
    return ForgetSplit.draw(
        [case.id for case in cases],
        strata=[(case.label, case.flags.get(flag, UNKNOWN_FLAG)) for case in cases],
        fine_fraction=fine_fraction,
        seed=seed,
        coarsening=coarsening.describe(),
    )


def only_coarse(cases: Sequence[Case]) -> set[str]:
    """Cases of which files tell that there is a coarse mask alone."""
    return {case.id for case in cases if "coarse" in case.paths and "mask" not in case.paths}


def labels_in_words(cases: Sequence[Case], split: ForgetSplit, coarsening: Coarsening) -> str:
    """How many training images have fine masks, how many coarse ones, and where those come from.

    Args:
        cases: of training.
        split: of these.
        coarsening: makes the coarse masks of cases that bring none.
    """
    drawn = sum("coarse" in case.paths for case in cases if case.id in {*split.coarse})
    derived = len(split.coarse) - drawn
    whence = {"read from files": drawn, f"made of fine ones by {coarsening}": derived}
    listed = ", ".join(f"{number} {how}" for how, number in whence.items() if number)
    return f"{len(split.fine)} fine masks, {len(split.coarse)} coarse ones ({listed})"
