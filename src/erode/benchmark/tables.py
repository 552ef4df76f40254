"""Results as tables for people: Markdown and LaTeX, mean ± sd over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..accounting import rounded_up
from ..comparison import COLUMNS
from ..files import write_text
from ..report.table import mean_and_sd
from ..tables import markdown_table

IDENTITY = ("method", "title", "seed")
"""Columns of the results file that follow the axes."""

WEAKEST_FIRST = ("approximate", "certified", "exact")
"""What operators promise, the least first."""


def axes_of(results: pd.DataFrame) -> list[str]:
    """The axes of the grid: the columns before the method."""
    return list(results.columns[: list(results.columns).index(IDENTITY[0])])


def folder_of(values: Iterable[Any]) -> str:
    """The name of a cell's folder, from the values of its axes in order.

    Example:
        >>> folder_of(["90 %", "binary"]), folder_of([])
        ('90 %_binary', 'all')
    """
    return "_".join(map(str, values)) or "all"


def cells_of(results: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each cell of the grid, by its name, in order."""
    axes = axes_of(results)
    if not axes:
        return [("all", results)]
    groups = results.groupby(axes, sort=False)
    return [(", ".join(map(str, key if isinstance(key, tuple) else (key,))), part) for key, part in groups]


def table_of(cell: pd.DataFrame, timings: pd.DataFrame) -> list[list[str]]:
    """Lines of one cell: titles, then one line per method, which says where a seed gave no row.

    Args:
        cell: rows of the results file.
        timings: wall times of the same rows, joined by index.
    """
    repetitions = cell["seed"].nunique()
    columns = [(name, title) for name, title in COLUMNS if name in cell and cell[name].notna().any()]
    lines = [["method", "(ε, δ)", *(title for _, title in columns), "gradient evaluations", "seconds"]]
    for method in dict.fromkeys(cell["method"]):
        runs = cell[cell["method"] == method]
        cells = [mean_and_sd([None if pd.isna(v) else float(v) for v in runs[name]]) for name, _ in columns]
        seconds = timings.loc[runs.index, "seconds"].mean()
        effort = runs["gradient_evaluations"].mean()
        title = str(runs["title"].iloc[0])
        if len(runs) < repetitions:
            title += f" ({len(runs)} of {repetitions} seeds)"
        spent = "–" if math.isnan(effort) else f"{effort:,.0f}"
        lines.append([title, _promise(runs), *cells, spent, f"{seconds:.0f}"])
    return lines


def markdown(results: pd.DataFrame, timings: pd.DataFrame) -> str:
    """All cells, one table each.

    Args:
        results: the results file.
        timings: the file of wall times.
    """
    if results.empty:
        return "no rows"
    parts = []
    for name, cell in cells_of(results):
        head, *lines = table_of(cell, timings)
        table = markdown_table(head, lines, numbers=range(2, len(head)))
        parts.append(f"### {name}\n\n{_heading(cell)}\n\n{table}")
    return "\n\n".join(parts)


def latex(results: pd.DataFrame, timings: pd.DataFrame) -> str:
    """All cells, one ``tabular`` each, for ``booktabs``."""
    parts = []
    for name, cell in cells_of(results) if len(results) else []:
        lines = [[_escaped(text) for text in line] for line in table_of(cell, timings)]
        head, *body = [" & ".join(line) + r" \\" for line in lines]
        columns = "ll" + "r" * (len(lines[0]) - 2)
        parts.append(
            f"% {name}; {_heading(cell)}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}\n\\midrule\n"
            + "\n".join(body)
            + "\n\\bottomrule\n\\end{tabular}"
        )
    return "\n\n".join(parts)


def write_tables(results: pd.DataFrame, timings: pd.DataFrame, out: Path) -> None:
    """Write ``tables.md`` and ``tables.tex``."""
    for name, text in (("tables.md", markdown(results, timings)), ("tables.tex", latex(results, timings))):
        write_text(out / name, text + "\n")


def promise_of(runs: pd.DataFrame) -> str | None:
    """What a method promises: the least of what its runs do; None where one unlearnt nothing.

    Args:
        runs: rows of one method, at least one.

    Example:
        >>> promise_of(pd.DataFrame({"guarantee": ["exact", "approximate"]}))
        'approximate'
    """
    promised = set(runs["guarantee"])
    return None if runs["guarantee"].isna().any() else min(promised, key=WEAKEST_FIRST.index)


def whence(results: pd.DataFrame) -> str:
    """The part of the data that the numbers come from, as the start of a sentence; empty where no row tells.

    Example:
        >>> whence(pd.DataFrame({"part": ["val", "val"]}))
        'Val part'
    """
    parts = dict.fromkeys(results["part"].dropna()) if "part" in results else {}
    return f"{' and '.join(parts).capitalize()} part" if parts else ""


def _promise(runs: pd.DataFrame) -> str:
    guarantee = promise_of(runs)
    if guarantee == "certified":  # by the seed that promises least
        epsilon, delta = (rounded_up(runs[name].max()) for name in ("epsilon_certified", "delta_certified"))
        return f"({epsilon}, {delta})"
    return {"exact": "exact", "approximate": "none"}.get(guarantee or "", "–")


def _heading(cell: pd.DataFrame) -> str:
    seeds: Sequence[int] = sorted(set(cell["seed"]))
    which = ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
    spread = "mean ± sample standard deviation" if len(seeds) > 1 else "one seed, so no spread"
    return "; ".join(filter(None, (whence(cell), which, spread)))


def _escaped(text: str) -> str:
    for sign, command in (
        ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("ε", r"$\varepsilon$"), ("δ", r"$\delta$"),
        ("–", "--"),
    ):  # fmt: skip
        text = text.replace(sign, command)
    return text
