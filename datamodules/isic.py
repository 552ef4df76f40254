"""Dermoscopy: the ISIC challenges of 2016, 2017 and 2018."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from .base import MaskDataModule
from .case import Arrays, Case
from .errors import DataError
from .files.folders import first_line
from .files.isic_layouts import ARTEFACTS, Lesion, find_lesions, read_artefacts, read_malignancy
from .files.reading import Size, check_reading, read_case
from .parts.grouped_split import PARTS, grouped_split
from .parts.trap import Trap

NEAR_DUPLICATES = (
    ("ISIC_0012290", "ISIC_0013594"),
    ("ISIC_0012672", "ISIC_0012673"),
    ("ISIC_0012756", "ISIC_0013184"),
)
"""Pictures of one lesion; they stay in one part of the data."""


class ISICDataModule(MaskDataModule):
    """Skin lesions of an ISIC challenge, with artefact flags where they were annotated.

    Images are squashed to ``size``, whatever their aspect, as the challenge's entries did; ``half_width`` of
    the coarsening counts squashed pixels.

    Args:
        root: folder with the unpacked archives of one challenge (``ISIC-2017_Training_Data``,
            ``ISIC-2017_Training_Part1_GroundTruth``, ``ISIC-2017_Training_Part3_GroundTruth.csv`` and so on),
            or with ``images``, ``masks`` and ``metadata.csv``.
        size: height and width of the arrays, in pixels.
        task: ``binary``: background and lesion; ``multiclass``: background, benign and malignant lesion. Only
            the latter's labels tell malignancy.
        labels_csv: malignancy of the images (``isic_layouts.read_malignancy`` lists the tables); None = the
            challenge's own table. The 2018 segmentation task has none: the artefact table brings one.
        artefact_csv: artefact flags, e.g. ``isic_bias.csv`` of Bissoto et al. (2020); None = those in
            ``metadata.csv`` if there.
        fractions: parts of the images for training, validation and test, stratified by malignancy and
            ``flag``; None = the challenge's parts.
        part_seed: seed of that division.
        trap: divide the images that have artefact flags such that artefacts mislead in test, e.g.
            :class:`~erode.datamodules.parts.trap_split.TrapSplit`; positive = malignant.
        **options: those of :class:`~erode.datamodules.base.MaskDataModule`; ``flag`` is one of
            ``isic_layouts.ARTEFACTS`` or ``any``.

    Raises:
        DataError: if files are missing or do not fit together.
        ValueError: if the task or the flag is unknown.

    Example:
        >>> ISICDataModule("ISIC2017", task="multiclass", flag="ruler").class_names
        ['background', 'benign', 'malignant']
    """

    def __init__(
        self,
        root: str | Path,
        size: Size = 64,
        task: Literal["binary", "multiclass"] = "binary",
        labels_csv: str | Path | None = None,
        artefact_csv: str | Path | None = None,
        fractions: tuple[float, float, float] | None = (0.6, 0.15, 0.25),
        part_seed: int = 0,
        trap: Trap | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if task not in ("binary", "multiclass"):
            raise ValueError(f"task must be binary or multiclass, got {task!r}")
        if self.flag not in (*ARTEFACTS, "any") and self.overlay is None:
            raise DataError(f"flag {self.flag!r} is no ISIC artefact: choose any, {', '.join(ARTEFACTS)}")
        check_reading(size, None, spatial_dims=2)
        self.root = Path(root)
        self.size = size
        self.task = task
        self.labels_csv = None if labels_csv is None else Path(labels_csv)
        self.artefact_csv = None if artefact_csv is None else Path(artefact_csv)
        self.fractions = fractions
        self.part_seed = part_seed
        self.trap = trap
        self._malignant: dict[str, bool] = {}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, background first."""
        return ["background", "lesion"] if self.task == "binary" else ["background", "benign", "malignant"]

    def cases(self) -> list[Case]:
        """All images, from file names and tables alone."""
        lesions = find_lesions(self.root)
        malignant = self._malignant = self._malignancy(lesions)
        flags = self._flags()
        groups = {id: pair[0] for pair in NEAR_DUPLICATES for id in pair}
        cases = [
            Case(
                lesion.id,
                label=1 if self.task == "binary" else 1 + malignant[lesion.id],
                part=lesion.part,
                flags=flags.get(lesion.id, {}),
                group=groups.get(lesion.id, ""),
                paths={"image": lesion.image} | ({"mask": lesion.mask} if lesion.mask else {}),
            )
            for lesion in lesions
        ]
        if self.trap is not None:
            return self.trap.divide(cases, [malignant[case.id] for case in cases], self.fractions, self.part_seed)
        if self.fractions is None:
            absent = [part for part in PARTS if all(case.part != part for case in cases)]
            if absent:
                raise DataError(f"{self.root} has no images in the challenge's {absent[0]}: add them or set fractions")
            return cases
        strata = [(malignant.get(case.id), case.flags.get(self.flag)) for case in cases]
        parts = grouped_split([case.group for case in cases], strata, self.fractions, self.part_seed)
        return [replace(case, part=part) for case, part in zip(cases, parts, strict=True)]

    def read(self, case: Case) -> Arrays:
        """Read the pixels of one image."""
        return read_case(case, size=self.size)

    def is_positive(self, case: Case) -> bool | None:
        """Whether the lesion is malignant, whatever the task; None where unknown."""
        return self._malignant.get(case.id)

    def _malignancy(self, lesions: list[Lesion]) -> dict[str, bool]:
        known = {lesion.id: lesion.malignant for lesion in lesions if lesion.malignant is not None}
        if self.labels_csv is not None:
            known |= read_malignancy(self.labels_csv)
        unknown = [lesion.id for lesion in lesions if lesion.id not in known]
        if unknown and (self.task == "multiclass" or self.trap is not None):
            remedy = "set labels_csv" if self.trap is not None else "set labels_csv, or task: binary"
            raise DataError(
                f"{self.root}: malignancy of {unknown[0]} and {len(unknown) - 1} others is unknown: {remedy}"
            )
        return known

    def _flags(self) -> dict[str, dict[str, int]]:
        if self.artefact_csv is not None:
            return read_artefacts(self.artefact_csv)
        prepared = self.root / "metadata.csv"
        annotated = prepared.is_file() and ARTEFACTS[0] in first_line(prepared)
        return read_artefacts(prepared) if annotated else {}
