"""Files of a run folder, with errors that say which one is broken."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..files import parse_json

Table = dict[str, list[str]]
"""Columns of a CSV file, as text; an empty string where a cell is empty."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: if it is none.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no complete JSON ({error}); was the run cut short?") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


def read_csv(path: Path) -> Table:
    """A CSV file by columns."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, restval=""))
    names = [name for name in (rows[0] if rows else {}) if name is not None]
    return {name: [row[name] or "" for row in rows] for name in names}


def curve(columns: Table, name: str, x: str = "step") -> tuple[list[float], list[float]]:
    """Numbers of a column over those of another, without the rows that lack one.

    Example:
        >>> curve({"step": ["0", "1", "2"], "loss": ["0.5", "", "0.25"]}, "loss")
        ([0.0, 2.0], [0.5, 0.25])
    """
    pairs = zip(columns.get(x, []), columns.get(name, []), strict=False)
    points = [(float(a), float(b)) for a, b in pairs if _is_number(a) and _is_number(b)]
    return [a for a, _ in points], [b for _, b in points]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
