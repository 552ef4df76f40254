"""The ladder as a figure: spurious information of the labels above, what models make of them below."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...pictures import COLOURS, INK, new_figure

Record = Mapping[str, Any]
CURVES = {
    "auroc_robust": ("robust AUROC", "o-", COLOURS[5]),
    "auroc_foreground_robust": ("robust AUROC in foreground", "s--", COLOURS[5]),
    "auroc_worst": ("AUROC of the worst pair of groups", "v:", COLOURS[3]),
    "dice_lesion": ("lesion Dice", "o-", COLOURS[2]),
}
"""Metric to label, style and colour."""


def ladder_figure(contents: Sequence[Record], rows: Sequence[Record], title: str, part: str = "test") -> Figure:
    """Draw the ladder, coarse on the left.

    Without artefact maps the upper panel shows the closed form per unit of artefact share, −(1−γ) ln(1−γ), its limit
    for few artefacts.

    Args:
        contents: of each rung, as ``ladder.json`` holds them.
        rows: of each rung and seed; without any there is no lower panel.
        title: name of the data.
        part: where the models' numbers come from.
    """
    figure = new_figure(max(6.5, 0.95 * len(contents) + 1.4), 6.4 if rows else 3.3)
    panels = figure.subplots(2 if rows else 1, 1, sharex=True, squeeze=False)[:, 0]
    _information(panels[0], contents)
    if rows:
        _models(panels[1], contents, rows)
        panels[1].set_ylabel(f"{part} part, mean ± sd over seeds", fontsize=9)
    panels[0].set_title(f"Specificity ladder: {title}", fontsize=12, color=INK)
    panels[-1].set_xticks(range(len(contents)), [_label(content) for content in contents], fontsize=8.5)
    panels[-1].set_xlabel(
        "labels that training sees, and their tightness γ = P(lesion | labelled positive)", fontsize=9
    )
    for axis in panels:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", labelsize=8.5)
        axis.legend(fontsize=8.5, frameon=False)
    return figure


def _information(axis: Axes, contents: Sequence[Record]) -> None:
    x = np.arange(len(contents))
    measured = _values(contents, "information")
    if np.isnan(measured).all():
        q = 1 - _values(contents, "tightness")
        few = -q * np.log(np.where(q > 0, q, 1))
        axis.plot(x, few, "s--", color=COLOURS[1], markersize=4, label="closed form, few artefacts")
        axis.set_ylabel("spurious information per\nunit of artefact share [nats]", fontsize=9)
        return
    ends = np.stack([measured - _values(contents, "information_low"), _values(contents, "information_high") - measured])
    scale = 1e3
    axis.errorbar(
        x, scale * measured, scale * ends.clip(min=0), fmt="o", color=COLOURS[0], capsize=4, markersize=6,
        label="measured, 95 % interval over images",
    )  # fmt: skip
    for key, style, colour, label in (
        ("closed_form", "s-", COLOURS[1], "closed form, artefact share w of the ring"),
        ("published", "^--", "#999999", "closed form, w of all background"),
    ):
        axis.plot(x, scale * _values(contents, key), style, color=colour, markersize=4, linewidth=1.2, label=label)
    axis.set_ylabel("spurious information of the\nlabels [10⁻³ nats per pixel]", fontsize=9)
    axis.set_ylim(bottom=0)


def _models(axis: Axes, contents: Sequence[Record], rows: Sequence[Record]) -> None:
    for turn, (key, (label, style, colour)) in enumerate(CURVES.items()):
        runs = [[row["metrics"].get(key) for row in rows if row["rung"] == content["rung"]] for content in contents]
        known = [[value for value in values if value is not None] for values in runs]
        means = [statistics.mean(values) if values else np.nan for values in known]
        spread = [statistics.stdev(values) if len(values) > 1 else 0 for values in known]
        places = np.arange(len(contents)) + 0.05 * (turn - (len(CURVES) - 1) / 2)  # bars beside each other
        axis.errorbar(
            places, means, spread, fmt=style, color=colour, capsize=3, markersize=4, linewidth=1.4,
            label=label,
        )  # fmt: skip
    axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axis.set_ylim(-0.03, 1.03)


def _label(content: Record) -> str:
    first, _, second = content["title"].partition(" ")
    return f"{first}\n{second}\nγ = {content['tightness']:.2f}"


def _values(contents: Sequence[Record], key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if content[key] is None else content[key] for content in contents], dtype=np.float64)
