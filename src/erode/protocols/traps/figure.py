"""A trap set as a figure: how well each method ranks the images, beside what lies between coarse masks and fine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...pictures import COLOURS, INK, new_figure
from .gap import gap_of, values_of
from .report import scores_of

Row = Mapping[str, Any]

PANELS = ("auroc", "auroc_robust", "auroc_foreground_robust")


def traps_figure(rows: Sequence[Row], title: str, part: str = "test") -> Figure:
    """One panel per score, one line per method: a dot per seed, a bar at the mean, a band from coarse to oracle.

    Args:
        rows: of all methods and seeds, at least one.
        title: name of the data.
        part: where the numbers come from.
    """
    scores = {metric: name for metric, name in scores_of(rows).items() if metric in PANELS}
    titles = {row["method"]: row["title"] for row in rows}
    figure = new_figure(3.2 + 3.2 * max(1, len(scores)), 1.5 + 0.32 * len(titles), gap=0.1)
    panels = figure.subplots(1, max(1, len(scores)), squeeze=False, sharey=True)[0]
    for axis, (metric, name) in zip(panels, scores.items(), strict=False):
        _score(axis, rows, list(titles), metric)
        axis.set_xlabel(f"{name} ({part} part)", fontsize=9)
    panels[0].set_yticks(range(len(titles)), list(titles.values()), fontsize=9)
    panels[0].set_ylim(len(titles) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8.5)
    figure.suptitle(f"Trap set: {title}", fontsize=12, color=INK)
    return figure


def _score(axis: Axes, rows: Sequence[Row], methods: Sequence[str], metric: str) -> None:
    gap = gap_of(rows, metric)
    if gap is not None:
        axis.axvspan(gap.low, gap.high, color=COLOURS[2], alpha=0.16, linewidth=0, label="mean of coarse to oracle")
    axis.axvline(0.5, color="grey", linewidth=0.8, linestyle=":", label="chance")
    for line, method in enumerate(methods):
        known = [value for value in values_of(rows, method, metric) if value is not None]
        colour = COLOURS[line % len(COLOURS)]
        axis.plot(known, [line] * len(known), "o", color=colour, markersize=5, alpha=0.65)
        if len(known) > 1:
            axis.plot([statistics.mean(known)] * 2, [line - 0.3, line + 0.3], color=colour, linewidth=2)
    axis.set_xlim(-0.03, 1.03)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.3, linewidth=0.6)
    axis.spines[["top", "right", "left"]].set_visible(False)
