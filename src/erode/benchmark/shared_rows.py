"""Rows that ε and δ have no part in: computed once for all cells of a grid that differ in nothing else."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from ..comparison import METHODS, MethodName, Row
from ..files import digest_of
from ..rows import stored

TARGET = ("epsilon", "delta")
"""Settings that only certified rows depend on."""

ROWS = ("methods", "seeds")
"""Entries of a configuration that say which rows there are, not what they are."""


def take_over(cells: Path, folder: Path, method: MethodName, seed: int) -> bool:
    """Copy a row, with its weights and what logs are left, from a cell that it would have come out the same in.

    Args:
        cells: folder with a folder for each cell.
        folder: of the cell that misses the row; holds its settings and configuration. Both have to be those of the
            other cell: what a configuration asks for need not show in the settings.
        method: of the row; nothing is copied for one that is told ε.
        seed: of the row.

    Returns:
        Whether the row is there now.
    """
    name = f"{method}-seed{seed}"
    path = folder / "rows" / f"{name}.json"
    if path.exists():
        return True
    if METHODS[method].certified:
        return False
    wanted = _origin(folder)
    for other in sorted(cells.iterdir()):
        row = other / "rows" / path.name
        if row.exists() and (other / "weights" / name).is_dir() and wanted is not None and _origin(other) == wanted:
            stored(path, functools.partial(_copied, row, other, folder, name))
            print(f"seed {seed}: {METHODS[method].title}, as in {other.name}", flush=True)
            return True
    return False


def _copied(row: Path, other: Path, folder: Path, name: str) -> Row:
    for part in ("weights", "logs"):
        shutil.rmtree(folder / part / name, ignore_errors=True)  # what a copy that was cut short left behind
        if (other / part / name).is_dir():  # logs can be deleted, and take nothing from the row
            shutil.copytree(other / part / name, folder / part / name)
    content: Row = json.loads(row.read_text(encoding="utf-8"))
    return content


def _origin(folder: Path) -> str | None:
    """Digest of all that rows without a target depend on; None where settings or configuration are not there."""
    try:
        settings: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except OSError:
        return None
    both = ({key: x for key, x in part.items() if key not in (*TARGET, *ROWS)} for part in (settings, config))
    return digest_of([*both])
