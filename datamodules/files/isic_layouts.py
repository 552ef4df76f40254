"""Folder layouts of the ISIC challenges 2016, 2017 and 2018 and of a prepared folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import pandas as pd

from ..case import Part
from ..errors import DataError
from .folders import first_line, index_files, read_table, require_columns, require_images

ARTEFACTS = ("dark_corner", "hair", "gel_border", "gel_bubble", "ruler", "ink", "patches")
"""Artefacts annotated by Bissoto et al. (2020), Debiasing Skin Lesion Datasets and Models? Not So Fast."""

_YES = {"1", "1.0", "malignant", "melanoma"}
_NO = {"0", "0.0", "benign", "nevus", "seborrheic_keratosis"}


class Lesion(NamedTuple):
    """One dermoscopic image.

    Args:
        id: the archive's name of it, ``ISIC_0000000``.
        image: its file.
        mask: mask of the lesion; None where it is missing.
        part: the part of the data that the challenge put it in.
        malignant: melanoma (2016: malignant) or not; None where unknown.
    """

    id: str
    image: Path
    mask: Path | None
    part: Part
    malignant: bool | None


class Layout(NamedTuple):
    """Names of one part of one challenge; ``labels`` is a table, None where the challenge published none."""

    year: int
    part: Part
    images: str
    masks: str
    labels: str | None


LAYOUTS = (
    Layout(
        2016,
        "train",
        "ISBI2016_ISIC_Part1_Training_Data",
        "ISBI2016_ISIC_Part1_Training_GroundTruth",
        "ISBI2016_ISIC_Part3_Training_GroundTruth.csv",
    ),
    Layout(
        2016,
        "test",
        "ISBI2016_ISIC_Part1_Test_Data",
        "ISBI2016_ISIC_Part1_Test_GroundTruth",
        "ISBI2016_ISIC_Part3_Test_GroundTruth.csv",
    ),
    Layout(
        2017,
        "train",
        "ISIC-2017_Training_Data",
        "ISIC-2017_Training_Part1_GroundTruth",
        "ISIC-2017_Training_Part3_GroundTruth.csv",
    ),
    Layout(
        2017,
        "val",
        "ISIC-2017_Validation_Data",
        "ISIC-2017_Validation_Part1_GroundTruth",
        "ISIC-2017_Validation_Part3_GroundTruth.csv",
    ),
    Layout(
        2017,
        "test",
        "ISIC-2017_Test_v2_Data",
        "ISIC-2017_Test_v2_Part1_GroundTruth",
        "ISIC-2017_Test_v2_Part3_GroundTruth.csv",
    ),
    Layout(2018, "train", "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", None),
    Layout(2018, "val", "ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth", None),
    Layout(2018, "test", "ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth", None),
)


def find_lesions(root: Path) -> list[Lesion]:
    """All images below a folder that holds one ISIC challenge, or ``images``, ``masks`` and ``metadata.csv``.

    Official archives may be unpacked in ``root`` itself or each in a folder of its own. Superpixel files are
    left out.

    Raises:
        DataError: if nothing or more than one challenge is found, or files do not fit together.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no folder: set root (--data.root) to the folder with the unpacked ISIC archives")
    if (root / "images").is_dir():
        return _prepared(root)
    found = [(layout, folder) for layout in LAYOUTS if (folder := _locate(root, layout.images)) is not None]
    years = sorted({layout.year for layout, _ in found})
    if len(years) > 1:
        raise DataError(f"{root} holds the challenges {years}, which share images: set root to the folder of one")
    if not found:
        raise DataError(
            f"{root} holds no ISIC challenge: expected e.g. {LAYOUTS[2].images} and {LAYOUTS[2].masks}, or "
            "images, masks and metadata.csv"
        )
    return [lesion for layout, folder in found for lesion in _official(root, layout, folder)]


def read_malignancy(path: Path) -> dict[str, bool]:
    r"""Malignancy of images by id, from any of the tables in use.

    Known are those of the challenges 2016 (no header; ``benign`` or ``malignant``), 2017 (``image_id,
    melanoma, ...``), 2018 task 3 (``image, MEL, ...``), the artefact table of Bissoto et al. (``image; ...;
    label``), and ``image_id, malignant``.

    Raises:
        DataError: if the table is of no known kind or holds an unknown diagnosis.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = file.write_text("image_id,melanoma,seborrheic_keratosis\nISIC_1,1.0,0.0\n")
        >>> read_malignancy(file)
        {'ISIC_1': True}
    """
    header = first_line(path)
    if header.startswith("ISIC_"):
        table = read_table(path, "image", names=["image", "malignant"])
    else:
        table = read_table(path, "image_id" if "image_id" in header else "image")
    column = next((name for name in ("malignant", "melanoma", "MEL", "label") if name in table.columns), None)
    if column is None:
        require_columns(path, table, ["malignant"])
    malignant: dict[str, bool] = {}
    for id, value in table[column].items():
        if value not in _YES | _NO:
            raise DataError(f"{path} says {value!r} of {id} in column {column!r}: expected 0, 1, benign or malignant")
        malignant[str(id)] = value in _YES
    return malignant


def read_artefacts(path: Path) -> dict[str, dict[str, int]]:
    r"""Artefact flags of images by id, ``any`` for at least one of them; unannotated images are absent.

    Args:
        path: ``isic_bias.csv`` of Bissoto et al. (2020), or another table with columns ``image`` or
            ``image_id`` and :data:`ARTEFACTS`.

    Raises:
        DataError: if a column is missing or a flag is neither 0 nor 1.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "isic_bias.csv"
        >>> _ = file.write_text("image;" + ";".join(ARTEFACTS) + "\nISIC_1.png;0;1;0;0;0;0;0\n")
        >>> flags = read_artefacts(file)["ISIC_1"]
        >>> flags["hair"], flags["ruler"], flags["any"]
        (1, 0, 1)
    """
    table = read_table(path, "image_id" if "image_id" in first_line(path) else "image")
    require_columns(path, table, list(ARTEFACTS))
    table = table[list(ARTEFACTS)]
    table = table[(table != "").all(axis=1)]
    wrong = ~table.isin(["0", "1", "0.0", "1.0"])
    if wrong.to_numpy().any():
        id = wrong.any(axis=1).idxmax()
        raise DataError(f"{path} has an artefact flag other than 0 or 1 for {id}: correct it")
    present = table.isin(["1", "1.0"]).astype(int)
    present["any"] = present.max(axis=1)
    return {str(id): {str(k): int(v) for k, v in row.items()} for id, row in present.to_dict("index").items()}


def _locate(root: Path, name: str) -> Path | None:
    """A file or folder of this name in root or one or two folders below; archives often nest once."""
    found = [path for pattern in ("", "*/", "*/*/") for path in sorted(root.glob(f"{pattern}{name}"))]
    # The innermost: an archive unpacked into a folder of its own name.
    return max(found, key=lambda path: len(path.parts), default=None)


def _official(root: Path, layout: Layout, folder: Path) -> list[Lesion]:
    images = index_files(folder, ignore="superpixels")
    images = {id: file for id, file in images.items() if id.startswith("ISIC_")}
    masks = _locate(root, layout.masks)
    if masks is None:
        raise DataError(f"{folder} has no masks: unpack {layout.masks} below {root}")
    labels = _locate(root, layout.labels) if layout.labels else None
    return _lesions(images, index_files(masks, "_segmentation"), {}, layout.part, _labels(labels))


def _labels(path: Path | None) -> dict[str, bool]:
    return {} if path is None else read_malignancy(path)


def _prepared(root: Path) -> list[Lesion]:
    table = root / "metadata.csv"
    rows: pd.DataFrame = read_table(table, "image_id")
    require_columns(table, rows, ["split", "malignant"])
    images, masks = index_files(root / "images"), index_files(root / "masks")
    missing = sorted(set(images) - set(rows.index))
    if missing:
        raise DataError(f"{table} has no row for {missing[0]} and {len(missing) - 1} others: add them")
    wrong = rows.index[~rows["split"].isin(get_args(Part))]
    if len(wrong):
        raise DataError(f"{table} puts {wrong[0]} in {rows['split'][wrong[0]]!r}: write train, val or test")
    parts = {str(id): value for id, value in rows["split"].items()}
    return _lesions(images, masks, parts, "train", _labels(table))


def _lesions(
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    parts: Mapping[str, Part],
    default: Part,
    malignant: Mapping[str, bool],
) -> list[Lesion]:
    require_images(images, masks)
    return [Lesion(id, file, masks.get(id), parts.get(id, default), malignant.get(id)) for id, file in images.items()]
