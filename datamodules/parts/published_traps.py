"""The trap sets that Bissoto et al. published, without the leak between their parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from ..case import Case, Part
from ..errors import DataError
from ..files.folders import read_table
from .grouped_split import PARTS
from .trap import Trap


class PublishedTrap(Trap):
    """Parts read from the published tables: one file per part, a row per image.

    ``isic_annotated_{part}1.csv`` … ``5`` belong to the 2020 paper (ISIC 2018 task 1), ``{part}_bias_0.5_1.csv`` and so
    on to that of 2022 (ISIC 2019). All validation images of the former are in training too. An image, or another
    of its group (a near-duplicate, the same patient), that stands in several parts stays in the last of train, val,
    test and is taken out of the others, with a warning that counts them. Images the tables do not name take no part.
    The five test sets of 2020 share 87 % of their images: they are no independent folds.

    Args:
        folder: where the tables are.
        name: their file name, ``{part}`` in the place of train, val and test.

    Raises:
        DataError: from :meth:`divide`, if a table is missing, or a part would be empty.
        ValueError: for a name without ``{part}``.

    Source: Bissoto et al. 2020, Debiasing Skin Lesion Datasets and Models? Not So Fast; Bissoto et al. 2022,
    Artifact-based Domain Generalization of Skin Lesion Models.

    Example:
        >>> PublishedTrap("trap-sets", "isic_annotated_{part}2.csv").path("val").as_posix()
        'trap-sets/isic_annotated_val2.csv'
    """

    def __init__(self, folder: str | Path, name: str = "isic_annotated_{part}1.csv") -> None:
        if "{part}" not in name:
            raise ValueError(f"name must hold {{part}} in the place of train, val and test, got {name!r}")
        self.folder = Path(folder)
        self.name = name

    def path(self, part: Part) -> Path:
        """The table of one part."""
        return self.folder / self.name.replace("{part}", part)

    def divide(
        self,
        cases: Sequence[Case],
        positive: Sequence[bool],
        fractions: tuple[float, float, float] | None,
        seed: int,
    ) -> list[Case]:
        """Put the cases that the tables name into their parts; fractions and seed decide nothing here."""
        named = {part: frozenset(map(str, read_table(self.path(part), "image").index)) for part in PARTS}
        units = {case.id: case.group or case.id for case in cases}
        divided: dict[str, Part] = {}
        taken: set[str] = set()
        for part in reversed(PARTS):
            here = [id for id in units if id in named[part]]
            leaking = [id for id in here if id not in divided and units[id] in taken]
            repeated = [id for id in here if id in divided]
            if leaking or repeated:
                rank_zero_warn(
                    f"{self.path(part)}: {len(repeated)} of {len(here)} images are in a later part too, and "
                    f"{len(leaking)} belong to the group of one there; all are taken out of {part}"
                )
            kept = [id for id in here if units[id] not in taken]
            if not kept:
                raise DataError(f"{self.path(part)} names no image of this data that is left for {part}: is it theirs?")
            divided |= dict.fromkeys(kept, part)
            taken |= {units[id] for id in kept}
        absent = len(frozenset().union(*named.values()) - units.keys())
        if absent:
            rank_zero_warn(f"{absent} images of the published trap set are absent from this data")
        return [replace(case, part=divided[case.id]) for case in cases if case.id in divided]
