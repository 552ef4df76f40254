"""What a folder of ``erode compare`` tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..pictures import COLOURS, INK, new_figure, save_figure
from .page import Missing, Section, facts, paragraph, picture, table
from .reading import read_json
from .table import mean_and_sd

DRAWN = "comparison.png"

Rows = Sequence[dict[str, Any]]
Columns = Sequence[Sequence[str]]


def comparison_sections(run: Path, out: Path) -> tuple[list[Section], Missing]:
    """The table, the same values as a chart, every picture of the folder, and the settings.

    Args:
        run: folder with ``comparison.json``.
        out: folder for the chart.

    Raises:
        ValueError: if ``comparison.json`` does not hold what ``erode compare`` writes.
    """
    path = run / "comparison.json"
    content = read_json(path)
    try:
        rows, columns, settings = content["rows"], content["columns"], content["settings"]
        part = settings["evaluated on"].capitalize()
        body = table_rows(rows, columns)
        seeds = sorted({row["seed"] for row in rows})
        chart = save_figure(chart_figure(rows, columns), out / DRAWN) if rows else None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is not what erode compare writes ({error!r}); run erode compare again") from error
    if chart is None:
        return [], [("rows of comparison.json", "the comparison ended before its first row; call it again")]
    which = ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
    spread = "mean ± sample standard deviation over seeds" if len(seeds) > 1 else "one seed, so no spread"
    header = ["method", *(title for _, title in columns), "seconds"]
    result = paragraph(
        f"{part} part, fine masks; every row has the last weights of its run. S_global is 0 for empty masks "
        "too: read it together with Dice and leakage."
    )
    result += table(header, body, f"{which}: {spread}")
    result += picture(
        chart,
        "The table as a chart: one panel per metric, one line per method",
        "One dot per seed, a bar at the mean.",
    )
    sections = [Section("Methods", result)]
    pictures = sorted(p for p in run.glob("[!.]*.png") if p.name != DRAWN)
    if pictures:
        shown = "".join(picture(p, alt_text(p), caption_of(p)) for p in pictures)
        sections.append(Section("Predictions", shown))
    sections.append(Section("Settings", facts(settings)))
    missing = [] if pictures else [("*.png", "pictures of predictions; erode compare draws them at its end")]
    return sections, missing


def table_rows(rows: Rows, columns: Columns) -> list[list[str]]:
    """One line of text per method, in the order in which methods first appear.

    Example:
        >>> row = {"method": "a", "title": "A", "seed": 0, "seconds": 2}
        >>> table_rows([{**row, "metrics": {"dice": dice}} for dice in (0.1, 0.3)], [["dice", "Dice"]])
        [['A', '0.200 ± 0.141', '2']]
    """
    body = []
    for runs in by_method(rows):
        values = [mean_and_sd([run["metrics"].get(name) for run in runs]) for name, _ in columns]
        seconds = f"{np.mean([run['seconds'] for run in runs]):.0f}"
        body.append([runs[0]["title"], *values, seconds])
    return body


def by_method(rows: Rows) -> list[list[dict[str, Any]]]:
    """The rows of each method."""
    return [[row for row in rows if row["method"] == name] for name in dict.fromkeys(row["method"] for row in rows)]


def chart_figure(rows: Rows, columns: Columns) -> Figure:
    """One panel per metric, one line per method: a dot per seed, a bar at the mean."""
    methods = by_method(rows)
    wide = min(3, len(columns))
    tall = -(-len(columns) // wide)
    figure = new_figure(2.0 + 2.9 * wide, tall * (0.9 + 0.3 * len(methods)), gap=0.1)
    axes = figure.subplots(tall, wide, squeeze=False, sharey=True)
    for axis in axes.ravel()[len(columns) :]:
        axis.set_visible(False)
    for axis, (name, title) in zip(axes.ravel(), columns, strict=False):
        for line, runs in enumerate(methods):
            values = [run["metrics"].get(name) for run in runs]
            known = [value for value in values if value is not None]
            colour = COLOURS[line % len(COLOURS)]
            axis.plot(known, [line] * len(known), "o", color=colour, markersize=5.5, alpha=0.75)
            if len(known) > 1:
                axis.plot([np.mean(known)] * 2, [line - 0.3, line + 0.3], color=colour, linewidth=2)
        axis.set_title(title, fontsize=10.5, color=INK)
        axis.set_yticks(range(len(methods)), [runs[0]["title"] for runs in methods], fontsize=9)
        axis.set_ylim(len(methods) - 0.4, -0.6)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(axis="x", alpha=0.3, linewidth=0.6)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    return figure


def alt_text(path: Path) -> str:
    """What a picture of the folder shows, as far as its name tells."""
    return f"Picture {path.stem.replace('_', ' ')}: images with outlined masks, one column per method"


def caption_of(path: Path) -> str:
    """The file's name, for those who look for it."""
    return path.name
