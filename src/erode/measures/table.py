"""The measures as a table for people: one line per question, one column per model, and what would be ideal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ..pictures import COLOURS, INK, new_figure
from ..tables import markdown_table, show_table
from .values import Values

AGAIN = "as retrained again"
RETRAINED = "as retrained"

LINES: tuple[tuple[str, str, str], ...] = (
    ("forget_original_label", "forget atoms that still get their original label", RETRAINED),
    ("ring_original_label", "ring atoms that do", RETRAINED),
    ("forget_js", "JS divergence from retrained, forget atoms [nats]", AGAIN),
    ("ring_js", "JS divergence from retrained, ring [nats]", AGAIN),
    ("forget_activation", "activation distance from retrained, forget atoms", AGAIN),
    ("forget_completeness", "completeness: Jaccard with retrained, forget images", AGAIN),
    ("completeness", "completeness, held-out images", AGAIN),
    ("weights_ratio", "weights moved, of what retraining moved them", "1, from one initialisation"),
    ("membership_auc", "membership AUC", RETRAINED),
    ("membership_tpr", "membership TPR at FPR 1 %", RETRAINED),
    ("probe_auroc", "linear probe of the artefact, AUROC", RETRAINED),
    ("relearn_steps", "steps until the forget set is known again", "as fresh"),
    ("anamnesis_index", "anamnesis index", "1"),
    ("forget_zrf", "ZRF (rewards random answers, which are wrong here)", RETRAINED),
    ("fine_dice", "lesion Dice, fine training images", "1"),
    ("dice_lesion", "lesion Dice, held-out images", "1"),
    ("dice_class", "class Dice", "1"),
    ("leakage", "leakage", "0"),
    ("s_global", "S_global [nats]", "0"),
    ("auroc", "AUROC", "1"),
    ("auroc_robust", "robust AUROC", "1"),
    ("auroc_balanced", "AUROC, balanced held-out set", "as AUROC"),
    ("auroc_inverted", "AUROC, inverted held-out set", "as AUROC"),
    ("group_dice_worst", "lesion Dice of the worst group (y, s)", "as of the best"),
    ("gap_mean", "IoU gap, common minus rare groups", "0"),
    ("group_worst_flip", "foreground with another class, worst group", "0"),
    ("dice_worst_ring", "lesion Dice of the worst ring around the centre", "as of the best"),
)
"""Name of a value, what people read, and its ideal."""

TITLES = {name: title for name, title, _ in LINES} | {"sweep": "AUROC over other rates of the artefact"}


def lines(values: Mapping[str, Values]) -> list[list[str]]:
    """Head and one line for each measure that at least one model has.

    Args:
        values: by model.
    """
    shown = [["measure", *values, "ideal"]]
    for key, title, ideal in LINES:
        cells = [_cell(model, key) for model in values.values()]
        if any(cell != "–" for cell in cells):
            shown.append([title, *cells, ideal])
    return shown


def notes(left_out: Mapping[str, str]) -> list[str]:
    """One line for each measure that was left out, and why.

    Args:
        left_out: reasons by name of the value.

    Example:
        >>> notes({"auroc_balanced": "no image has a known artefact flag"})
        ['AUROC, balanced held-out set: left out, no image has a known artefact flag']
    """
    return [f"{TITLES.get(name, name)}: left out, {reason}" for name, reason in left_out.items()]


def markdown(values: Mapping[str, Values], left_out: Mapping[str, str]) -> str:
    """The same as a Markdown table, with the reasons for what was left out below."""
    head, *body = lines(values)
    table = markdown_table(head, body, numbers=range(1, len(head) - 1))
    remarks = [f"- {note}" for note in notes(left_out)]
    return "\n".join([table, "", *remarks] if remarks else [table])


def print_measures(values: Mapping[str, Values], left_out: Mapping[str, str]) -> None:
    """The same in the terminal."""
    head, *body = lines(values)
    show_table(head, body, range(1, len(head) - 1), width=120, notes=notes(left_out))


def sweep_figure(sweeps: Mapping[str, Sequence[tuple[float, float]]], title: str) -> Figure:
    """AUROC over P(artefact | positive), one curve per model.

    Args:
        sweeps: points by model.
        title: the data and the part of them.
    """
    figure = new_figure(5.2, 3.6)
    axis = figure.subplots()
    for colour, (name, points) in zip(COLOURS * 2, sweeps.items(), strict=False):
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=name)
    axis.set(xlabel="P(artefact | positive) after re-weighting", ylabel="AUROC", xlim=(0, 1))
    axis.set_title(title, fontsize=10.5, color=INK)
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def _cell(values: Values, key: str) -> str:
    value = values.get(key, math.nan)
    if math.isnan(value):
        return "–"
    low, high = values.get(f"{key}_low", math.nan), values.get(f"{key}_high", math.nan)
    digits = 0 if key == "relearn_steps" else 3
    interval = "" if math.isnan(low) or math.isnan(high) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"
