"""What a trap set showed as a table: terminal and Markdown, mean ± sd over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...report.table import mean_and_sd
from ...tables import markdown_table, show_table
from .gap import closed, closed_interval, gap_of, values_of

Row = Mapping[str, Any]

SCORES = {
    "auroc": "AUROC",
    "auroc_robust": "robust AUROC",
    "auroc_worst": "worst pair AUROC",
    "auroc_foreground": "AUROC in foreground",
    "auroc_foreground_robust": "robust AUROC in foreground",
}
"""Scores that a trap misleads, by metric; those that no row has are left out.

The first three rank by the mean over the image, which grows with the lesion, the last two do not. Robust is the pair of
groups where artefact and label disagree, the worst pair the least of all pairs.
"""


def scores_of(rows: Sequence[Row]) -> dict[str, str]:
    """The scores that at least one row has, by metric."""
    return {
        metric: title for metric, title in SCORES.items() if any(row["metrics"].get(metric) is not None for row in rows)
    }


def table_of(rows: Sequence[Row]) -> list[list[str]]:
    """Headings, then one line per method in the order in which methods first appear."""
    scores = scores_of(rows)
    lines = [["method", *(heading for title in scores.values() for heading in (title, "gap closed")), "lesion Dice"]]
    for method, title in {row["method"]: row["title"] for row in rows}.items():
        cells = [title]
        for metric in scores:
            cells += [mean_and_sd(values_of(rows, method, metric)), _share(rows, method, metric)]
        lines.append([*cells, mean_and_sd(values_of(rows, method, "dice_lesion"))])
    return lines


def notes_of(rows: Sequence[Row]) -> list[str]:
    """What the shares rest on: for each score the gap, or why there is none."""
    notes = []
    for metric, title in scores_of(rows).items():
        gap = gap_of(rows, metric)
        if gap is None:
            notes.append(f"{title}: coarse or oracle is absent or undefined, so there is no gap to close.")
            continue
        ends = [mean_and_sd(values_of(rows, name, metric)) for name in ("coarse", "oracle")]
        alone = len(values_of(rows, "coarse", metric)) == 1
        verdict = "one seed, so no spread to hold a gap against" if alone else "gap" if gap.exists else "no gap"
        notes.append(f"{title}: {verdict}, coarse {ends[0]}, oracle {ends[1]}.")
    return notes


def markdown_of(rows: Sequence[Row], part: str = "test") -> str:
    """The table and its notes in Markdown, with the part of the data that the numbers come from."""
    head, *lines = table_of(rows)
    table = markdown_table(head, lines, numbers=range(1, len(head)))
    rule = (
        "A gap is what the oracle stands above the coarse model, if that is more than either spreads over seeds. In "
        "brackets, from five seeds on: 95 % interval of the share, paired by seed (Fieller)."
    )
    return "\n".join([_whence(part), "", table, "", rule, "", *(f"- {note}" for note in notes_of(rows))]) + "\n"


def print_traps(rows: Sequence[Row], title: str, part: str = "test") -> None:
    """The table and its notes in the terminal."""
    head, *lines = table_of(rows)
    whence = _whence(part)
    show_table(head, lines, range(1, len(head)), title=title, caption=whence, width=150, notes=notes_of(rows))


def _whence(part: str) -> str:
    return f"{part.capitalize()} part, mean ± sd over seeds."


def _share(rows: Sequence[Row], method: str, metric: str) -> str:
    share, interval = closed(rows, method, metric), closed_interval(rows, method, metric)
    if share is None:
        return "–"
    return f"{share:.0%}" if interval is None else f"{share:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]"
