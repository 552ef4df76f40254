"""The map of collapse: what certification costs, over ε and the size of the network, with everything else the same."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..accounting import rounded_up
from ..files import digest_of
from ..pictures import INK, new_figure
from .tables import axes_of, folder_of

BEST = "retain_view"
"""Exact retraining, which certified rows are held against."""

ALIKE = 1.1
"""Networks whose numbers of parameters differ by a smaller factor count as one size, as with two or three classes."""

SIZE = ("parameters", "layers", "initial weights")
"""Settings of a model that say how large it is, or follow from it."""

SHOWN = 0.2
"""Lesion Dice lost or won at which the colours end."""


def collapse_figure(results: pd.DataFrame, out: Path) -> Figure | None:
    """Lesion Dice lost against exact retraining, over ε and the number of parameters; means over seeds.

    One panel per method and group of cells that differ in nothing but ε and the size of the network, by the
    settings in their folders: nothing is averaged over data, coarsenings or fine fractions.

    Args:
        results: the results file.
        out: folder of the results; ``cells`` in it holds the settings.

    Returns:
        None unless some group holds certified rows of two or more ε, or of sizes that differ by more than 10 %,
        beside exact retraining.
    """
    if results.empty:
        return None
    axes = axes_of(results)
    pair = [*axes, "seed"]
    exact = results.loc[results["method"] == BEST, [*pair, "dice_lesion"]]
    certified = results[results["guarantee"] == "certified"].merge(exact, on=pair, suffixes=("", "_exact"))
    if certified.empty:
        return None
    certified["lost"] = certified["dice_lesion_exact"] - certified["dice_lesion"]
    certified["group"] = [_group(out / "cells" / folder_of(row[axes])) for _, row in certified.iterrows()]
    panels = []
    for _, runs in certified.groupby(["group", "method"], sort=False):
        losses = _losses(runs)
        if losses.size > 1:
            panels.append((_title(runs, axes), float(runs["delta_certified"].iloc[0]), losses))
    return _draw(panels) if panels else None


def sizes_of(parameters: Sequence[int]) -> dict[int, int]:
    """The size, as its smallest number of parameters, that each number of parameters counts for.

    Example:
        >>> sizes_of([1_626_072, 52_065, 1_625_737])
        {52065: 52065, 1625737: 1625737, 1626072: 1625737}
    """
    sizes: dict[int, int] = {}
    first = 0
    for number in sorted(set(parameters)):
        first = number if number > ALIKE * first else first
        sizes[number] = first
    return sizes


def _group(folder: Path) -> str:
    """Of all that a cell was set to, but ε and the size of its network."""
    settings: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    model = {key: value for key, value in settings["model"].items() if key not in SIZE}
    rest = {key: value for key, value in settings.items() if key != "epsilon"}
    return digest_of({**rest, "model": model})


def _losses(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean loss of each size (lines) at each ε (columns); NaN where no row is."""
    sizes = runs["parameters"].map(sizes_of(runs["parameters"].tolist()))
    return runs.groupby([sizes, "epsilon_certified"])["lost"].mean().unstack()


def _title(runs: pd.DataFrame, axes: list[str]) -> str:
    """The method, and what is the same in the whole panel."""
    same = [str(runs[axis].iloc[0]) for axis in axes if runs[axis].nunique() == 1]
    return "\n".join([*([", ".join(same)] if same else []), str(runs["title"].iloc[0])])


def _draw(panels: list[tuple[str, float, pd.DataFrame]]) -> Figure:
    wide = min(3, len(panels))
    tall = -(-len(panels) // wide)
    most = max(len(losses) for *_, losses in panels)
    figure = new_figure(3.8 * wide + 1.0, (1.3 + 0.55 * most) * tall + 0.6, gap=0.06)
    grid = figure.subplots(tall, wide, squeeze=False).ravel()
    for axis, (title, delta, losses) in zip(grid, panels, strict=False):
        image = _panel(axis, losses)
        axis.set_title(title, fontsize=9, color=INK)
        axis.set_xlabel(f"certified ε [no unit], δ = {rounded_up(delta)}", fontsize=8)
        axis.set_ylabel("network size [parameters]", fontsize=8)
    for axis in grid[len(panels) :]:
        axis.set_visible(False)
    bar = figure.colorbar(image, ax=grid.tolist(), extend="both")
    bar.set_label("lesion Dice lost [Dice, 0 to 1]", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    figure.supxlabel("Against exact retraining with the same data and seed; means over seeds.", fontsize=8, color=INK)
    return figure


def _panel(axis: Axes, losses: pd.DataFrame) -> Any:
    values = losses.to_numpy()
    image = axis.imshow(values, cmap="RdBu_r", vmin=-SHOWN, vmax=SHOWN, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.55 * SHOWN else INK
        text = "no result" if math.isnan(value) else f"{value:+.3f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(losses.columns)), [f"{value:g}" for value in losses.columns])
    axis.set_yticks(range(len(losses)), [f"{value:,}" for value in losses.index])
    axis.tick_params(labelsize=7.5)
    return image
