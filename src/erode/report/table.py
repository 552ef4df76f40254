"""What a comparison shows in the terminal: one table, mean ± sd over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..tables import show_table


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]], part: str) -> None:
    """Print one line per method.

    Args:
        rows: as ``erode compare`` writes them: ``method``, ``title``, ``seed``, ``metrics``, ``seconds``.
        columns: metric and title of each column; ``s_global`` is shown with its bootstrap interval where the
            rows hold one and there is one seed.
        part: of the data, that the numbers come from.
    """
    caption = f"{part.capitalize()} part, fine masks, mean ± sd over seeds."
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        runs = [row for row in rows if row["method"] == method]
        cells = [_cell([run["metrics"] for run in runs], name) for name, _ in columns]
        lines.append([runs[0]["title"], *cells, f"{statistics.mean(run['seconds'] for run in runs):.0f}"])
    head = ["method", *(title for _, title in columns), "seconds"]
    show_table(head, lines, range(1, len(head)), caption=caption)


def mean_and_sd(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean, and the sample standard deviation where there are several values; a dash where one is undefined.

    Example:
        >>> mean_and_sd([0.5, 0.7]), mean_and_sd([0.5]), mean_and_sd([None])
        ('0.600 ± 0.141', '0.500', '–')
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def _cell(runs: Sequence[dict[str, Any]], name: str) -> str:
    text = mean_and_sd([run.get(name) for run in runs])
    low, high = runs[0].get(f"{name}_low"), runs[0].get(f"{name}_high")
    return f"{text} [{low:.2f}, {high:.2f}]" if len(runs) == 1 and low is not None and high is not None else text
