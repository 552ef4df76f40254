"""Any data set whose images and masks lie in folders: pictures, NIfTI or DICOM, two- or three-dimensional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from ..batch import UNKNOWN_ARTEFACT
from .base import MaskDataModule
from .case import Arrays, Case, Part
from .errors import DataError
from .files.folders import index_files, read_table, require_columns, require_images
from .files.reading import Size, check_reading, read_case, read_mask
from .parts.grouped_split import PARTS, grouped_split
from .parts.trap import Trap


class ImageFolderDataModule(MaskDataModule):
    """Images and masks paired by file name, with an optional table of labels, patients, parts and flags.

    Args:
        root: folder that the other paths are relative to.
        images: folder of images.
        masks: folder of fine masks; training images may lack one where they have a coarse mask.
        coarse_masks: folder of coarse masks as annotated; None = derive them from the fine ones.
        artefact_masks: folder of artefact masks, non-zero = artefact; None = unknown.
        mask_suffix: what mask file names have beyond the image's, e.g. ``_segmentation``.
        table: CSV file with a row per image; None = no table.
        id_column: column of the table with the images' file names, with or without ending.
        label_column: column with the class of the image, a number or one of ``class_names``; None = read the
            masks to find it: the most frequent class, 0 for an empty mask.
        group_column: column with the patient, who stays in one part.
        split_column: column with ``train``, ``val`` or ``test``; None = divide by ``fractions``.
        flag_columns: columns with image-level artefact flags, 0, 1 or empty. The flag ``any`` is set where
            one of them is or, without such columns, where the artefact mask is not empty.
        incomplete_column: column that holds something other than 0 or nothing where not all artefacts of an image
            are outlined: beyond the outlines its pixels are unknown then, not free of artefacts.
        class_names: names of the classes, background first.
        mask_values: class of each value of the mask files, colours as 0xRRGGBB; None = masks hold 0 and one
            other value, and non-zero pixels are of the image's class.
        size: spatial size of the arrays; None = as stored, if all images have one size.
        channels: channels of the images.
        spatial_dims: 2 or 3.
        window: intensities that become 0 and 1, e.g. in Hounsfield units; None = 0 and 255 for 8-bit data,
            the 0.5 and 99.5 percentile of the image else.
        fractions: parts of the images for training, validation and test; images that have a coarse mask only
            are not counted and train, and with them all images of their group.
        part_seed: seed of that division, stratified by label and ``flag``.
        trap: divide such that the artefacts of ``flag_columns`` mislead in test, e.g.
            :class:`~erode.datamodules.parts.trap_split.TrapSplit`; positive = the last class.
        **options: those of :class:`~erode.datamodules.base.MaskDataModule`.

    Raises:
        DataError: if files, table and settings do not fit together.

    Example:
        >>> ImageFolderDataModule("scans", class_names=["background", "liver"], spatial_dims=3).num_classes
        2
    """

    def __init__(
        self,
        root: str | Path,
        images: str = "images",
        masks: str = "masks",
        coarse_masks: str | None = None,
        artefact_masks: str | None = None,
        mask_suffix: str = "",
        table: str | None = None,
        id_column: str = "id",
        label_column: str | None = None,
        group_column: str | None = None,
        split_column: str | None = None,
        flag_columns: Sequence[str] = (),
        incomplete_column: str | None = None,
        class_names: Sequence[str] = ("background", "foreground"),
        mask_values: Mapping[int, int] | None = None,
        size: Size | None = None,
        channels: int = 3,
        spatial_dims: int = 2,
        window: tuple[float, float] | None = None,
        fractions: tuple[float, float, float] = (0.6, 0.15, 0.25),
        part_seed: int = 0,
        trap: Trap | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_reading(size, window, spatial_dims)
        columns = [label_column, group_column, split_column, incomplete_column, *flag_columns]
        self.columns = [column for column in columns if column is not None]
        if self.columns and table is None:
            raise ValueError(f"{', '.join(self.columns)} are columns of a table: set table")
        if self.flag not in ("any", *flag_columns) and self.overlay is None:
            raise ValueError(f"flag {self.flag!r} is none of flag_columns: {', '.join(flag_columns)}; add it")
        if trap is not None and split_column is not None:
            raise ValueError(f"a trap divides anew, {split_column!r} is a division that exists: leave out one of them")
        if label_column is None and mask_values is None and len(class_names) != 2:
            raise ValueError("with more than two classes set label_column or mask_values")
        self.root = Path(root)
        folders = {"image": images, "mask": masks, "coarse": coarse_masks, "artefact": artefact_masks}
        self.folders = {kind: self.root / name for kind, name in folders.items() if name is not None}
        self.mask_suffix = mask_suffix
        self.table = None if table is None else self.root / table
        self.id_column = id_column
        self.label_column = label_column
        self.group_column = group_column
        self.split_column = split_column
        self.flag_columns = list(flag_columns)
        self.incomplete_column = incomplete_column
        self.names = list(class_names)
        self.mask_values = None if mask_values is None else dict(mask_values)
        self.size = size
        self.channels = channels
        self.spatial_dims = spatial_dims
        self.window = window
        self.fractions = fractions
        self.part_seed = part_seed
        self.trap = trap

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, background first."""
        return self.names

    def cases(self) -> list[Case]:
        """All images; masks are read where nothing else tells the label or the flag."""
        files = {
            kind: index_files(folder, "" if kind == "image" else self.mask_suffix)
            for kind, folder in self.folders.items()
        }
        images = files.pop("image")
        require_images(images, *files.values())
        rows = self._rows(images)
        cases = []
        for id in track(images, description="Reading labels", transient=True, disable=not self._reads_masks):
            paths = {"image": images[id]} | {kind: named[id] for kind, named in files.items() if id in named}
            row = rows.get(id, {})
            cases.append(
                Case(
                    id,
                    label=self._label(id, row, paths),
                    part=self._part(id, row),
                    flags=self._flags(id, row, paths),
                    group=row.get(self.group_column or "", ""),
                    paths=paths,
                )
            )
        if self.split_column is not None:
            return cases
        return self._divide(cases)

    def read(self, case: Case) -> Arrays:
        """Read the pixels of one image."""
        arrays = read_case(
            case,
            size=self.size,
            channels=self.channels,
            spatial_dims=self.spatial_dims,
            mask_values=self.mask_values,
            window=self.window,
        )
        if arrays.artefact is None or case.id not in self._incomplete:
            return arrays
        return replace(arrays, artefact=np.where(arrays.artefact > 0, arrays.artefact, np.uint8(UNKNOWN_ARTEFACT)))

    @cached_property
    def _incomplete(self) -> frozenset[str]:
        """Images not all of whose artefacts are outlined."""
        if self.table is None or self.incomplete_column is None:
            return frozenset()
        said = read_table(self.table, self.id_column)[self.incomplete_column]
        # A column of whole numbers with gaps is one of floats to most programs that write tables.
        return frozenset(str(id) for id, value in said.items() if value not in ("", "0", "0.0"))

    def _divide(self, cases: list[Case]) -> list[Case]:
        """Divide by fractions; evaluation needs fine masks, so images without one stay in training."""
        pinned = {case.group or case.id for case in cases if "mask" not in case.paths}
        free = [case for case in cases if (case.group or case.id) not in pinned]
        if self.trap is not None:
            positive = [bool(self.is_positive(case)) for case in free]
            trapped = {case.id: case for case in self.trap.divide(free, positive, self.fractions, self.part_seed)}
            pinned_cases = [case for case in cases if (case.group or case.id) in pinned]
            return [*trapped.values(), *pinned_cases]
        strata = [(case.label, case.flags.get(self.flag)) for case in free]
        may_be_empty: list[Part] = ["train"] if pinned else []
        try:
            drawn = grouped_split([case.group for case in free], strata, self.fractions, self.part_seed, may_be_empty)
        except DataError as error:
            fine = [case for case in cases if "mask" in case.paths]
            if len(fine) == len(free):
                raise
            raise DataError(
                f"{len(fine) - len(free)} of {len(fine)} images with fine masks train, for their patients "
                f"({self.group_column}) have an image with a coarse mask only, and the others are too few: {error}; "
                "validation and test need patients all of whose images have fine masks: draw some, or name the parts "
                "in a column (split_column)"
            ) from error
        parts = {case.id: part for case, part in zip(free, drawn, strict=True)}
        return [replace(case, part=parts.get(case.id, "train")) for case in cases]

    @property
    def _reads_masks(self) -> bool:
        return self.label_column is None or (not self.flag_columns and "artefact" in self.folders)

    def _rows(self, ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """The table by id; every image has a row and every row an image."""
        if self.table is None:
            return {}
        table = read_table(self.table, self.id_column)
        require_columns(self.table, table, self.columns)
        rows = {str(id): {str(k): str(v) for k, v in row.items()} for id, row in table.to_dict("index").items()}
        unmatched = sorted({*ids} ^ {*rows})
        if unmatched:
            raise DataError.of(
                [
                    f"{self.table} names {id}, absent from {self.folders['image']}: add it, or remove the row"
                    if id in rows
                    else f"{self.table} has no row for the image {id}: add one, or remove the image"
                    for id in unmatched[:20]
                ],
                more=len(unmatched) > 20,
            )
        return rows

    def _part(self, id: str, row: Mapping[str, str]) -> Part:
        if self.split_column is None:
            return "train"  # until the fractions decide
        for part in PARTS:
            if row[self.split_column] == part:
                return part
        raise DataError(f"{self.table}: {id} is in {row[self.split_column]!r}: write {', '.join(PARTS)}")

    def _label(self, id: str, row: Mapping[str, str], paths: Mapping[str, Path]) -> int:
        if self.label_column is None:
            classes = self._peek(paths.get("mask", paths.get("coarse")), self.mask_values)
            return 0 if classes is None or not classes.any() else int(np.bincount(classes[classes > 0]).argmax())
        value = row[self.label_column]
        if value in self.names:
            return self.names.index(value)
        if not value.isdecimal():
            raise DataError(
                f"{self.table}: {id} has the label {value!r}: write a class number or one of {', '.join(self.names)}"
            )
        return int(value)

    def _flags(self, id: str, row: Mapping[str, str], paths: Mapping[str, Path]) -> dict[str, int]:
        if not self.flag_columns:
            artefact = self._peek(paths.get("artefact"), None)
            if artefact is None or (id in self._incomplete and not artefact.any()):
                return {}  # an empty mask that leaves artefacts out shows nothing of whether there are any
            return {"any": int(artefact.any())}
        named = {column: row[column] for column in self.flag_columns if row[column] != ""}
        wrong = [column for column, value in named.items() if value not in ("0", "1")]
        if wrong:
            raise DataError(f"{self.table}: {id} has {wrong[0]} {named[wrong[0]]!r}: write 0, 1 or nothing")
        flags = {column: int(value) for column, value in named.items()}
        known = flags and (any(flags.values()) or len(flags) == len(self.flag_columns))
        return {"any": max(flags.values()), **flags} if known else flags

    def _peek(self, path: Path | None, values: Mapping[int, int] | None) -> NDArray[np.int64] | None:
        """A mask, or None where it cannot be read: validation reports that together with all else."""
        if path is None:
            return None
        try:
            return read_mask(path, None, values, spatial_dims=self.spatial_dims)
        except DataError:
            return None
