"""Folders and tables: which files belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ..errors import DataError
from .formats import stem


def index_files(folder: Path, suffix: str = "", ignore: str = "") -> dict[str, Path]:
    """The files of a folder by id, the file name without its ending; hidden files are left out.

    Args:
        folder: the folder; a folder in it is one DICOM series.
        suffix: what follows every id in this folder, e.g. ``_segmentation``, in any case; files without
            it are left out.
        ignore: leave out files whose name contains this; empty = none.

    Raises:
        DataError: if the folder is missing or empty, or two of its files have one id.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "a_mask.png").touch()
        >>> [(id, file.name) for id, file in index_files(folder, suffix="_mask").items()]
        [('a', 'a_mask.png')]
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: correct the path, or unpack the data there")
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        name = stem(file)
        if file.name.startswith(".") or (ignore and ignore in name):
            continue
        if not name.lower().endswith(suffix.lower()):
            continue
        name = name[: len(name) - len(suffix)]
        if name in files:
            raise DataError(f"{file} and {files[name]} have the same id {name}: remove one")
        files[name] = file
    if not files:
        raise DataError(f"{folder} holds no file{f' ending in {suffix}' if suffix else ''}: is it the right folder?")
    return files


def require_images(images: Mapping[str, Path], *masks: Mapping[str, Path]) -> None:
    """Refuse masks whose image is missing.

    Args:
        images: image files by id.
        *masks: files by id, one mapping for each kind of mask.

    Raises:
        DataError: naming each file without an image.

    Example:
        >>> require_images({"a": Path("a.png")}, {"a": Path("masks/a.png")})
    """
    orphans = [
        f"{file} has no image {id}: add the image, or remove this mask"
        for files in masks
        for id, file in files.items()
        if id not in images
    ]
    if orphans:
        raise DataError.of(orphans[:20], more=len(orphans) > 20)


def read_table(path: Path, id_column: str, names: list[str] | None = None) -> pd.DataFrame:
    r"""Read a table with one row per image; separated by comma, semicolon or tab.

    Args:
        path: a CSV file.
        id_column: column with the ids; endings like ``.png`` are cut.
        names: column names of a file that has no header.

    Returns:
        All columns as text, ``""`` where empty, with the ids as index.

    Raises:
        DataError: if the file cannot be read, lacks the column, or names an image twice.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = file.write_text("image;label\nISIC_1.jpg;0\n")
        >>> read_table(file, "image").to_dict("index")
        {'ISIC_1': {'label': '0'}}
    """
    # The header decides: guessing from content, as csv.Sniffer does, takes letters for separators.
    separator = max(",;\t", key=first_line(path).count)
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, names=names, encoding="utf-8-sig")
    except ValueError as error:  # of which pandas' own errors are kinds
        raise DataError(f"{path} cannot be read as a table ({error}): correct the file") from error
    require_columns(path, table, [id_column])
    table.index = pd.Index([stem(Path(id)) for id in table.pop(id_column)])
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise DataError(f"{path} has two rows for {twice[0]}: remove one")
    return table


def first_line(path: Path) -> str:
    """The first line of a text file.

    Raises:
        DataError: if the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): correct the path or the file") from error


def require_columns(path: Path, table: pd.DataFrame, columns: list[str]) -> None:
    """Refuse a table without some column.

    Raises:
        DataError: naming the first missing column and those that exist.

    Example:
        >>> require_columns(Path("labels.csv"), pd.DataFrame({"label": ["0"]}), ["label"])
    """
    for column in columns:
        if column not in table.columns:
            raise DataError(
                f"{path} has no column {column!r}, only {', '.join(map(str, table.columns))}: correct the column name"
            )
