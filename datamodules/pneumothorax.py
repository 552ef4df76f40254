"""Chest radiographs: the SIIM-ACR pneumothorax challenge, with chest tubes as the shortcut."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .base import MaskDataModule
from .case import Arrays, Case
from .errors import DataError
from .files.formats import Pixels
from .files.pixel_cache import PixelCache, Stored, content_key
from .files.reading import Size, check_reading, load_image, resize_mask, to_unit
from .files.run_length import decode_runs
from .files.siim_layout import Radiograph, find_radiographs, find_run_table, read_runs, read_tubes
from .parts.grouped_split import grouped_split

EVALUATED = (951, 1000)
"""Sizes of the validation and the test part of Saab et al. (2022), together the images with a tube label."""

REVISION = 2
"""Raise this where the same file and settings come to other pixels: entries of the cache are then made anew."""


class PneumothoraxDataModule(MaskDataModule):
    """Pneumothoraces in chest radiographs, many of them treated: a chest tube betrays the diagnosis.

    Files are read one at a time, resized once and kept on disk; nothing of the data set stays in memory but tables.
    All masks of an image are united. Images without a row in the table of runs (the challenge has some) are left
    out, with a warning. Tubes are known by image, not by pixel: leakage and S_global are undefined here, robust
    AUROC is not. An ``overlay`` of tubes has pixels.

    Args:
        root: folder with the DICOM files, in any folders below, and the table of runs.
        rle_csv: table of runs, ``ImageId`` (SOPInstanceUID) and ``EncodedPixels``; None = the challenge's
            ``train-rle.csv`` or ``stage_2_train.csv`` in ``root``.
        tube_labels: chest tube labels, see :func:`~.siim_layout.read_tubes`; None = unknown.
        size: height and width of the arrays, in pixels.
        window: intensities that become 0 and 1; None = 0 and 255 for 8-bit data, which the challenge's are.
        fractions: parts of the images for training, validation and test, stratified by label and ``flag``; None =
            as Saab et al. (2022): images with a tube label are divided 951 : 1000 into validation and test, all
            others train. Patients stay in one part.
        part_seed: seed of that division.
        cache_folder: where resized pixels are kept, by content: files may move, and what changed is read anew;
            None = nowhere.
        cache: keep images in memory too once they are read.
        **options: those of :class:`~erode.datamodules.base.MaskDataModule`; ``flag`` is ``tube`` or, the same,
            ``any``.

    Raises:
        DataError: if files and tables are missing or do not fit together.

    Example:
        >>> PneumothoraxDataModule("siim", flag="tube").class_names
        ['background', 'pneumothorax']
    """

    def __init__(
        self,
        root: str | Path,
        rle_csv: str | Path | None = None,
        tube_labels: str | Path | None = None,
        size: Size = 256,
        window: tuple[float, float] | None = None,
        fractions: tuple[float, float, float] | None = (0.6, 0.15, 0.25),
        part_seed: int = 0,
        cache_folder: str | Path | None = "runs/cache",
        cache: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(cache=cache, **options)
        if self.flag not in ("tube", "any") and self.overlay is None:
            raise ValueError(f"flag {self.flag!r} is not known here: choose tube")
        check_reading(size, window, spatial_dims=2)
        self.root = Path(root)
        self.rle_csv = None if rle_csv is None else Path(rle_csv)
        self.tube_labels = None if tube_labels is None else Path(tube_labels)
        self.size = size
        self.window = window
        self.fractions = fractions
        self.part_seed = part_seed
        self.pixel_cache = PixelCache(None if cache_folder is None else Path(cache_folder))
        self._runs: dict[str, list[str]] | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, background first."""
        return ["background", "pneumothorax"]

    @property
    def runs(self) -> dict[str, list[str]]:
        """The runs of each image, one text for each of its masks."""
        if self._runs is None:
            self.rle_csv = self.rle_csv or find_run_table(self.root)
            self._runs = read_runs(self.rle_csv)
        return self._runs

    def cases(self) -> list[Case]:
        """All images with a row in the table of runs, from tables and DICOM headers alone."""
        runs, images = self.runs, find_radiographs(self.root)
        assert self.rle_csv is not None
        absent = sorted(runs.keys() - images.keys())
        if absent:
            raise DataError(
                f"{self.rle_csv} names {absent[0]} and {len(absent) - 1} others, absent from {self.root}: "
                "unpack all of the DICOM files there, or remove the rows"
            )
        if len(images) > len(runs):
            warnings.warn(
                f"{len(images) - len(runs)} of {len(images)} images have no row in {self.rle_csv} and are left out",
                stacklevel=2,
            )
        tubes = self._tubes(images)
        cases = [
            Case(
                id,
                label=int(bool(texts)),
                part="train",  # until _divide decides
                flags={"any": tubes[id], "tube": tubes[id]} if id in tubes else {},
                group=images[id].patient,
                paths={"image": images[id].path, "mask": self.rle_csv},
            )
            for id, texts in sorted(runs.items())
        ]
        return self._divide(cases)

    def read(self, case: Case) -> Arrays:
        """Read the pixels of one image, from the cache if they are there."""
        path, texts = case.paths["image"], self.runs[case.id]
        try:
            key = content_key(path, {"revision": REVISION, "size": self.size, "runs": texts})
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}): restore it, or remove the rows of {case.id}") from error
        stored = self.pixel_cache.get(key, lambda: self._decode(case, texts))
        pixels = Pixels(stored["image"], tuple(stored["shape"].tolist()), bool(stored["inverted"]))
        return Arrays(to_unit(pixels, self.window), stored["mask"].astype(np.int64))

    def _decode(self, case: Case, texts: list[str]) -> Stored:
        pixels = load_image(case.paths["image"], self.size, channels=1, spatial_dims=2)
        rows, columns = pixels.shape
        mask = np.zeros((rows, columns), bool)
        for text in texts:
            try:
                mask |= decode_runs(text, (rows, columns))
            except ValueError as error:
                raise DataError(f"{case.paths['mask']}: {case.id}: {error}") from error
        return {
            "image": pixels.values,
            "shape": np.array(pixels.shape),
            "inverted": np.array(pixels.inverted),
            "mask": resize_mask(mask, self.size),
        }

    def _tubes(self, images: Mapping[str, Radiograph]) -> dict[str, int]:
        if self.tube_labels is None:
            return {}
        tubes = read_tubes(self.tube_labels)
        if not tubes.keys() & images.keys():
            raise DataError(
                f"{self.tube_labels} labels none of the images in {self.root}: its keys are SOPInstanceUIDs"
            )
        return tubes

    def _divide(self, cases: list[Case]) -> list[Case]:
        fractions = self.fractions
        pool = cases
        if fractions is None:
            # Whole patients, so that no training image shows a patient of the evaluation.
            labelled = {case.group or case.id for case in cases if case.flags}
            pool = [case for case in cases if (case.group or case.id) in labelled]
            if not pool:
                raise DataError("no image has a tube label to be evaluated with: set tube_labels or fractions")
            fractions = (0.0, EVALUATED[0] / sum(EVALUATED), EVALUATED[1] / sum(EVALUATED))
        strata = [(case.label, case.flags.get("tube")) for case in pool]
        drawn = grouped_split([case.group for case in pool], strata, fractions, self.part_seed)
        parts = {case.id: part for case, part in zip(pool, drawn, strict=True)}
        return [replace(case, part=parts.get(case.id, "train")) for case in cases]
