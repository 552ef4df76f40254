"""What an audit shows: a table in the terminal and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.table import Table

from ..pictures import COLOURS, INK, new_figure
from ..tables import markdown_table

Curve = tuple[ArrayLike, ArrayLike]
"""False and true positive rates, both rising from 0 to 1."""

Level = Literal["atom", "image"]

LEVELS: dict[Level, str] = {"atom": "one atom (pixel)", "image": "one image (mean over its atoms)"}
"""What is told apart, and its title."""

_STYLES = ("-", "--", "-")


def attack_lines(content: Mapping[str, Any], strata: Mapping[str, str], attacks: Mapping[str, str]) -> list[list[str]]:
    """Head, then one line per stratum, attack and level, and how the loss attacks differ.

    Args:
        content: of ``audit.json``.
        strata: titles.
        attacks: titles.
    """
    rate = f"TPR at FPR {content['settings']['fpr']:g} [95 %]"
    found = [["atoms", "attack", "per", "AUC [95 %]", "½ inside", rate]]
    for stratum, parts in content["strata"].items():
        for name, levels in parts["attacks"].items():
            for level, attack in levels.items():
                auc = _with_interval(attack["auc"], attack["auc_interval"])
                chance = "yes" if attack["chance_lies_inside"] else "NO"
                tpr = _with_interval(attack["tpr"], attack["tpr_interval"])
                found.append([strata[stratum], attacks[name], level, auc, chance, tpr])
        for level, difference in parts["auc_difference"].items():
            cell = _with_interval(difference["value"], difference["interval"], sign="+")
            found.append([strata[stratum], "loss, difference", level, cell, "", ""])
    return found


def print_attacks(lines: Sequence[Sequence[str]], content: Mapping[str, Any]) -> None:
    """Print the lines, with a rule after each stratum."""
    head, *body = lines
    table = Table(*head, caption=_caption(content))
    for line, following in zip(body, [*body[1:], head], strict=True):
        table.add_row(*line, end_section=following[0] != line[0])
    Console(width=max(110, Console().width)).print(table)


def attacks_markdown(lines: Sequence[Sequence[str]], content: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """The lines as a Markdown table, with what they are about and remarks below."""
    head, *body = lines
    notes = [f"- {remark}" for remark in [*_caption(content).splitlines(), *remarks]]
    return "\n".join([markdown_table(head, body), "", *notes])


def roc_figure(curves: Mapping[Level, Mapping[str, Curve]], title: str, fpr: float) -> Figure:
    """Draw ROC curves: a row per level, linear axes on the left, logarithmic ones on the right.

    Args:
        curves: by level (see `LEVELS`) and legend entry.
        title: of the picture.
        fpr: false positive rate to mark.

    Example:
        >>> len(roc_figure({"atom": {"loss": ([0, 0.5, 1], [0, 0.6, 1])}}, "forget atoms", 0.01).axes)
        2
    """
    figure = new_figure(9.2, 4.0 * len(curves) + 0.7)
    axes = figure.subplots(len(curves), 2, squeeze=False)
    for (left, right), (level, named) in zip(axes, curves.items(), strict=True):
        lowest = min(fpr, *(_first_above_zero(rates) for curve in named.values() for rates in curve))
        diagonal = np.geomspace(lowest / 2, 1, 200)
        for axis in (left, right):
            axis.plot(diagonal, diagonal, color="grey", linestyle=":", linewidth=1.2, label="chance")
            axis.axvline(fpr, color="grey", linewidth=0.8, alpha=0.6)
            for index, (name, curve) in enumerate(named.items()):
                x, y = _thin(curve)
                # Logarithmic axes have no 0: what is found without any false alarm runs in from the left edge.
                shown = np.maximum(x, lowest / 2) if axis is right else x
                axis.plot(shown, y, _STYLES[index % 3], color=COLOURS[index], linewidth=1.8, label=name)
            _dress(axis)
        right.set(xscale="log", yscale="log", xlim=(lowest / 2, 1.1), ylim=(lowest / 2, 1.1))
        left.set_title(LEVELS[level], fontsize=11, color=INK, loc="left")
        right.annotate(
            f"FPR {fpr:g}", (fpr, 0.0), xycoords=("data", "axes fraction"), xytext=(4, 4),
            textcoords="offset points", fontsize=8, color="#666666",
        )  # fmt: skip
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
    figure.suptitle(f"Membership inference, {title}", fontsize=13, color=INK)
    return figure


def _dress(axis: Axes) -> None:
    axis.set_xlabel("false positive rate (not trained on)", fontsize=9)
    axis.set_ylabel("true positive rate (trained on)", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _thin(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most about two thousand points of a curve, dense on linear and on logarithmic axes."""
    x, y = (np.asarray(rates, float) for rates in curve)
    if len(x) <= 2000:
        return x, y
    wanted = np.concatenate([np.linspace(0, 1, 500), np.geomspace(1e-6, 1, 500)])
    keep = np.unique(np.concatenate([np.searchsorted(rates, wanted) for rates in (x, y)] + [[0, len(x) - 1]]))
    keep = keep[keep < len(x)].astype(int)
    return x[keep], y[keep]


def _first_above_zero(rates: ArrayLike) -> float:
    values = np.asarray(rates, float)
    return float(max(values[values > 0].min(), 1e-6))


def _caption(content: Mapping[str, Any]) -> str:
    sides = [", ".join(f"{count} {name}" for name, count in side.items()) for side in content["images"].values()]
    return (
        f"members: {sides[0]} (training images); non-members: {sides[1]} ({content['held_out']})\n"
        "½ inside = no attack was shown to work; that proves nothing, a certificate does"
    )


def _with_interval(value: float, interval: tuple[float, float], sign: str = "") -> str:
    return f"{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"
