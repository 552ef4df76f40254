"""Files and tables of the SIIM-ACR pneumothorax challenge: DICOM files, runs, and tube labels."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd
from rich.progress import track

from ..errors import DataError
from .dicom import dicom_header
from .folders import first_line, read_table, require_columns
from .formats import stem
from .run_length import NOTHING

RUN_TABLES = ("train-rle.csv", "stage_2_train.csv")
"""Names under which the challenge published the runs, of its first and its second stage."""

LIMIT = 20


class Radiograph(NamedTuple):
    """One DICOM file.

    Args:
        id: its SOPInstanceUID, which the tables use.
        patient: its PatientID; empty where it has none.
        path: the file.
    """

    id: str
    patient: str
    path: Path


def find_radiographs(root: Path) -> dict[str, Radiograph]:
    """All DICOM files in a folder and the folders in it, by SOPInstanceUID; of each only the header is read.

    Raises:
        DataError: if there are none, naming files that are no DICOM files and instances that are there twice.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no folder: set root (--data.root) to the folder with the unpacked DICOM files")
    found: dict[str, Radiograph] = {}
    problems: list[str] = []
    for path in track(sorted(root.rglob("*.dcm")), description="Reading headers", transient=True):
        try:
            header = dicom_header(path)
        except DataError as error:
            problems.append(str(error))
            continue
        id = str(header.get("SOPInstanceUID", "")) or stem(path)
        if id in found:
            problems.append(f"{path} and {found[id].path} are both instance {id}: remove one")
        found[id] = Radiograph(id, str(header.get("PatientID", "")), path)
        if len(problems) == LIMIT:
            break
    if problems:
        raise DataError.of(problems, more=len(problems) == LIMIT)
    if not found:
        raise DataError(f"{root} holds no .dcm file: unpack dicom-images-train there")
    return found


def find_run_table(root: Path) -> Path:
    """The table of runs in a folder or one below.

    Raises:
        DataError: if there is none or more than one.
    """
    tables = [path for name in RUN_TABLES for pattern in ("", "*/") for path in sorted(root.glob(f"{pattern}{name}"))]
    if len(tables) != 1:
        raise DataError(f"{root} holds {len(tables)} tables named {' or '.join(RUN_TABLES)}: set rle_csv to one")
    return tables[0]


def read_runs(path: Path) -> dict[str, list[str]]:
    r"""Runs by image: all its masks, for an image may have several rows, some of them twice; none = an empty list.

    Column names and values are stripped, for the first stage wrote ``ImageId, EncodedPixels`` and `` -1``.

    Raises:
        DataError: if the file is no such table, or says of an image both that it has masks and that it has none.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "train-rle.csv"
        >>> _ = file.write_text("ImageId, EncodedPixels\n1.2.3, 5 2\n1.2.3, 9 1\n1.2.4, -1\n")
        >>> read_runs(file)
        {'1.2.3': ['5 2', '9 1'], '1.2.4': []}
    """
    first_line(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # of which pandas' own errors are kinds
        raise DataError(f"{path} cannot be read as a table ({error}): correct the file") from error
    table.columns = table.columns.str.strip()
    require_columns(path, table, ["ImageId", "EncodedPixels"])
    rows: dict[str, list[str]] = {}
    for id, text in zip(table["ImageId"], table["EncodedPixels"], strict=True):
        rows.setdefault(stem(Path(id.strip())), []).append(text.strip())
    torn = [id for id, texts in rows.items() if NOTHING in texts and set(texts) != {NOTHING}]
    if torn:
        raise DataError.of(
            [f"{path} gives {id} masks and, as {NOTHING}, none: remove the wrong rows" for id in torn[:LIMIT]],
            more=len(torn) > LIMIT,
        )
    return {id: [text for text in dict.fromkeys(texts) if text != NOTHING] for id, texts in rows.items()}


def read_tubes(path: Path) -> dict[str, int]:
    r"""Chest tube labels by SOPInstanceUID, 1 = the image shows one.

    Args:
        path: the published ``cxr_tube_dict.pkl``, of which nothing is executed, or a table with the columns
            ``ImageId`` and ``tube``.

    Raises:
        DataError: if the file cannot be read or holds anything but yes and no.

    Source:
        Saab, Hooper, Chen, Zhang, Rubin, Ré, "Reducing reliance on spurious features in medical image
        classification with spatial specificity", MLHC 2022, section 4: 1,951 images labelled by hand.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "tubes.csv"
        >>> _ = file.write_text("ImageId,tube\n1.2.3,1\n")
        >>> read_tubes(file)
        {'1.2.3': 1}
    """
    labels: dict[Any, Any]
    if path.suffix == ".pkl":
        labels = _read_pickle(path)
    else:
        table = read_table(path, "ImageId")
        require_columns(path, table, ["tube"])
        labels = {id: {"0": 0, "1": 1}.get(text, text) for id, text in table["tube"].items()}
    wrong = next((id for id, label in labels.items() if label not in (0, 1)), None)
    if wrong is not None:
        raise DataError(f"{path} says {labels[wrong]!r} of {wrong}: write 1 for a tube, 0 for none")
    return {stem(Path(str(id))): int(label) for id, label in labels.items()}


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, text and containers; a pickle that names a function or a class is refused, not obeyed."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def _read_pickle(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            labels = _unpickle(file)
    except Exception as error:  # a damaged pickle raises what it likes
        raise DataError(
            f"{path} cannot be read ({error}): download it again, or write its labels as a table ImageId,tube"
        ) from error
    if not isinstance(labels, dict):
        raise DataError(f"{path} holds a {type(labels).__name__}, not labels by image: is it cxr_tube_dict.pkl?")
    return labels


def _unpickle(file: IO[bytes]) -> Any:
    return _PlainUnpickler(file).load()
