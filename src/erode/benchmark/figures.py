"""Results as pictures: Dice beside leakage, S_global through unlearning, and the map of collapse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..pictures import COLOURS, INK, new_figure, save_figure
from .collapse import collapse_figure
from .dots import leakage_figure
from .tables import axes_of, cells_of, folder_of

MARKERS = "osD^vP*X<>h"
"""Eleven, which shares no factor with the number of colours, so that 66 methods stay apart."""

LINES = ("-", "--", ":")


def draw_figures(results: pd.DataFrame, out: Path) -> list[Path]:
    """Draw every figure that the results can fill; a picture of earlier results that these do not fill is removed.

    Args:
        results: the results file.
        out: folder of the results; ``cells`` in it holds the logs of the rows.

    Returns:
        The pictures written.
    """
    figures = {
        "dice_leakage.png": leakage_figure(results),
        "s_global.png": spurious_figure(results, out),
        "collapse.png": collapse_figure(results, out),
    }
    for name, figure in figures.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)
    return [save_figure(figure, out / name) for name, figure in figures.items() if figure is not None]


def spurious_figure(results: pd.DataFrame, out: Path) -> Figure | None:
    """S_global on the validation part through each row's run: mean and range over seeds, one panel per cell.

    Returns:
        None where the grid did not ask for ``validations``.
    """
    curves = {}
    for name, cell in cells_of(results) if len(results) else []:
        logs = [_log(out, cell, row) for _, row in cell.iterrows()]
        found = [log for log in logs if log is not None]
        if found and pd.concat(found)["s_global"].notna().any():
            curves[name] = pd.concat(found)
    if not curves:
        return None
    styles = _styles(results)

    def panel(axis: Axes, logs: pd.DataFrame) -> None:
        for method, runs in logs.groupby("method", sort=False):
            seeds, style = runs.groupby("step")["s_global"], styles[str(method)]
            mean = seeds.mean()
            axis.plot(mean.index, mean.to_numpy(), label=runs["title"].iloc[0], **style)
            axis.fill_between(
                mean.index, seeds.min().to_numpy(), seeds.max().to_numpy(), color=style["color"], alpha=0.1, linewidth=0
            )
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set_ylim(0, None)
        axis.set_xlabel("optimiser step", fontsize=8)
        axis.set_ylabel("S_global [nats per image], validation", fontsize=8)

    note = (
        "Means over seeds, bands from lowest to highest. S_global is 0 for empty masks too: read it together with Dice."
    )
    return _panels(list(curves.items()), panel, note)


def _panels(cells: list[tuple[str, pd.DataFrame]], draw: Callable[[Axes, pd.DataFrame], None], note: str) -> Figure:
    wide = min(2 if len(cells) < 5 else 3, len(cells))
    tall = -(-len(cells) // wide)
    figure = new_figure(4.2 * wide + 2.4, 3.3 * tall + 0.4, gap=0.06)
    axes = figure.subplots(tall, wide, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axis, (name, cell) in zip(axes, cells, strict=False):
        draw(axis, cell)
        axis.set_title(name, fontsize=9.5, color=INK)
        axis.tick_params(labelsize=7.5)
        axis.spines[["top", "right"]].set_visible(False)
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    for axis in axes[len(cells) :]:
        axis.set_visible(False)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    figure.supxlabel(note, fontsize=8, color=INK)
    return figure


def _styles(results: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each method, the same in every panel; lines that share a colour differ in dashes."""
    methods = list(dict.fromkeys(results["method"]))
    return {
        str(method): {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[i // len(COLOURS) % len(LINES)],
            "markersize": 4,
            "linewidth": 1.2,
        }
        for i, method in enumerate(methods)
    }


def _log(out: Path, cell: pd.DataFrame, row: pd.Series[Any]) -> pd.DataFrame | None:
    """What the monitor of one row wrote, or None."""
    folder = out / "cells" / folder_of(row[axes_of(cell)]) / "logs" / f"{row['method']}-seed{row['seed']}"
    logs = list(folder.glob("version_*/spurious_information.csv"))
    if not logs:
        return None
    log = pd.read_csv(max(logs, key=lambda path: int(path.parent.name.removeprefix("version_"))))
    current = log[log["weights"] == "current"]
    return current.assign(method=row["method"], title=row["title"])
