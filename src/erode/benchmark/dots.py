"""Lesion Dice beside leakage as dot plots: a line per method, the same lines in every cell."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.stats import t as student

from ..pictures import COLOURS, INK, new_figure
from .tables import cells_of, promise_of, whence

KINDS = {"control": "#777777", "approximate": COLOURS[1], "exact": COLOURS[0], "certified": COLOURS[2]}
"""What a method promises, in the order of the lines, with its colour; controls unlearn nothing."""

MARKERS = dict(zip(KINDS, "sDo^", strict=True))
ACROSS = 2
"""Cells side by side, which makes the picture 10 inches wide."""

BARS = "Bars: 95 % intervals of the mean over seeds, cut at 0 and 1; an arrow says that one goes on. "
ALONE = "A point without a bar is a single run. "
NO_BARS = "Every point is a single run, so there are no intervals. "
SPREAD = "Dice is spread towards 1, leakage towards 0, so that the best are told apart and no line is left out."
UNLEAKED = 0.01
"""Below this leakage the axis is linear, above it logarithmic."""


def leakage_figure(results: pd.DataFrame) -> Figure | None:
    """Two aligned dot plots per cell, lesion Dice and leakage, with a line for every method of the results.

    Args:
        results: the results file.

    Returns:
        None where nothing was tested with artefact masks. A method that a cell lacks says so on its line.
    """
    if results.empty or "leakage" not in results:
        return None
    cells = [(name, cell) for name, cell in cells_of(results) if cell["leakage"].notna().any()]
    if not cells:
        return None
    kinds = {str(method): kind_of(runs) for method, runs in results.groupby("method", sort=False)}
    methods = sorted(kinds, key=lambda method: list(KINDS).index(kinds[method]))
    titles = results.groupby("method")["title"].first()
    wide = min(ACROSS, len(cells))
    tall = -(-len(cells) // wide)
    width = 2.8 + 3.6 * wide
    figure = new_figure(width, (0.17 * len(methods) + 0.75) * tall + 0.7, gap=0.04)
    grid = figure.subplots(tall, 2 * wide, squeeze=False, sharey=True)
    low, high = _range_of(pd.concat([cell for _, cell in cells]))
    runs: set[int] = set()
    for index, (name, cell) in enumerate(cells):
        dice, leakage = grid[index // wide, 2 * (index % wide) :][:2]
        for axis, column, ends in ((dice, "dice_lesion", (low, high)), (leakage, "leakage", (0.0, 1.0))):
            for line, method in enumerate(methods):
                values = cell.loc[cell["method"] == method, column]
                runs.add(int(values.count()))
                _dot(axis, line, values, kinds[method], ends)
            _style(axis, [titles[method] for method in methods])
        _spread_to_one(dice, low, high)
        _spread_to_zero(leakage)
        dice.set_title(name, fontsize=9.5, color=INK, loc="left", fontweight="bold")
    for axis in grid.ravel()[2 * len(cells) :]:
        axis.set_visible(False)
    handles = [_handle(kind) for kind in KINDS if kind in kinds.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8.5, frameon=False)
    part = whence(pd.concat([cell for _, cell in cells]))
    note = f"{part}. {note_of(runs)}" if part else note_of(runs)
    figure.supxlabel(textwrap.fill(note, round(16 * width)), fontsize=8, color=INK)
    return figure


def kind_of(runs: pd.DataFrame) -> str:
    """What a method promises: the least of what its runs do.

    Args:
        runs: rows of one method, at least one.

    Example:
        >>> kind_of(pd.DataFrame({"guarantee": ["exact", "approximate"], "title": "PCMU"}))
        'approximate'
    """
    if runs["title"].str.startswith("control:").any():
        return "control"
    return promise_of(runs) or "control"


def note_of(runs: Collection[int]) -> str:
    """What the picture says of its bars, which only points of two or more runs have, and of its axes.

    Args:
        runs: numbers of runs behind a point; 0 is no point.

    Example:
        >>> note_of({1}).split(". ")[0]
        'Every point is a single run, so there are no intervals'
    """
    if max(runs, default=0) < 2:
        return NO_BARS + SPREAD
    return BARS + (ALONE if 1 in runs else "") + SPREAD


def interval(values: pd.Series[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval by Student's t; 0 for one value."""
    values = values.dropna()  # undefined in some runs
    n = len(values)
    half = float(student.ppf(0.975, n - 1)) * float(values.std()) / math.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), half


def _dot(axis: Axes, line: int, values: pd.Series[float], kind: str, ends: tuple[float, float]) -> None:
    """Mean and interval on a line of an axis that ends somewhere, or why there are none."""
    if values.dropna().empty:
        said = "no row" if values.empty else "undefined"
        axis.text(0.02, line, said, fontsize=6.5, color="#999999", va="center", transform=axis.get_yaxis_transform())
        return
    mean, half = interval(values)
    low, high = max(mean - half, 0), min(mean + half, 1)
    axis.plot(np.clip([low, high], *ends), [line, line], color=KINDS[kind], linewidth=1.5, alpha=0.75)
    for end, sign, beyond in zip(ends, "<>", (low < ends[0], high > ends[1]), strict=True):
        if beyond:
            axis.plot(end, line, color=KINDS[kind], marker=sign, markersize=3.5, clip_on=False)
    axis.plot(mean, line, color=KINDS[kind], marker=MARKERS[kind], markersize=4.5)


def _range_of(results: pd.DataFrame) -> tuple[float, float]:
    """Ends of the axes of Dice: they hold every run, with some space."""
    dice = results["dice_lesion"]
    return max(0.0, float(dice.min()) - 0.05), min(0.999, 1 - 0.7 * (1 - float(dice.max())))


def _spread_to_one(axis: Axes, low: float, high: float) -> None:
    """Equal steps for equal ratios of what is missing to 1."""
    axis.set_xscale("function", functions=(_missing, _unmissing))
    axis.set_xlim(low, high)
    ticks = [tick for tick in (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99) if low <= tick <= high]
    if len(ticks) < 3:
        ticks = [round(tick, 2) for tick in np.linspace(low, high, 5)[1:-1].tolist()]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xlabel("lesion Dice [0 to 1]\nmore is better", fontsize=8)


def _spread_to_zero(axis: Axes) -> None:
    axis.set_xscale("symlog", linthresh=UNLEAKED)
    axis.set_xlim(-0.0005, 1.15)
    axis.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("leakage [share of artefact pixels]\nless is better", fontsize=8)


def _missing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    spread: NDArray[np.float64] = -np.log(np.maximum(1 - np.asarray(values), 1e-6))
    return spread


def _unmissing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    back: NDArray[np.float64] = 1 - np.exp(-np.asarray(values))
    return back


def _style(axis: Axes, titles: Sequence[str]) -> None:
    axis.set_yticks(range(len(titles)), titles)
    axis.set_ylim(len(titles) - 0.4, -0.6)
    axis.tick_params(labelsize=7.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _handle(kind: str) -> Line2D:
    label = "control: nothing is unlearned" if kind == "control" else kind
    return Line2D([], [], color=KINDS[kind], marker=MARKERS[kind], markersize=4.5, linewidth=1.5, label=label)
