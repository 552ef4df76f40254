"""The ladder as tables: terminal, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...files import write_atomically
from ...report.table import mean_and_sd
from ...tables import markdown_table, show_table

Record = Mapping[str, Any]

TITLES = (
    "labels", "γ", "w in the ring", "I measured [10⁻³ nats/px]", "closed form", "at w of all background", "variance",
    "robust AUROC", "… in foreground", "worst pair AUROC", "AUROC", "lesion Dice",
)  # fmt: skip
METRICS = ("auroc_robust", "auroc_foreground_robust", "auroc_worst", "auroc", "dice_lesion")
"""What models make of the labels.

The first ranks by the mean over the image, which grows with the lesion, and speaks of one pair of groups; the second
does not grow; the third is the least over all pairs of (label, artefact).
"""


def cells(contents: Sequence[Record], rows: Sequence[Record]) -> Iterator[list[str]]:
    """One line per rung, as text; mean ± sd over seeds."""
    for content in contents:
        runs = [row["metrics"] for row in rows if row["rung"] == content["rung"]]
        low, high = content["information_low"], content["information_high"]
        interval = "" if low is None else f" [{1e3 * low:.2f}, {1e3 * high:.2f}]"
        yield [
            content["title"],
            _text(content["tightness"]),
            _text(content["artefact_share_inside"]),
            _text(content["information"], 1e3, 2) + interval,
            _text(content["closed_form"], 1e3, 2),
            _text(content["published"], 1e3, 2),
            f"{content['variance']:.3g}",
            *(mean_and_sd([run.get(name) for run in runs]) for name in METRICS),
        ]


def markdown_of(contents: Sequence[Record], rows: Sequence[Record], part: str) -> str:
    """The ladder in Markdown, with the part of the data that the models' columns come from."""
    table = markdown_table(TITLES, cells(contents, rows), numbers=range(1, len(TITLES)))
    return f"{_whence(part)}\n\n{table}\n"


def print_ladder(contents: Sequence[Record], rows: Sequence[Record], part: str) -> None:
    """The ladder in the terminal."""
    show_table(TITLES, cells(contents, rows), range(1, len(TITLES)), caption=_whence(part), width=150)


def write_csv(contents: Sequence[Record], rows: Sequence[Record], path: Path) -> Path:
    """One line per rung and seed: what its labels hold, and the metrics of its model; without models one per rung."""
    labels = {content["rung"]: {k: v for k, v in content.items() if k != "coarsening"} for content in contents}
    order = list(labels)
    lines = [
        {
            **labels[row["rung"]],
            "seed": row["seed"],
            **row["metrics"],
            "seconds": row["seconds"],
            "device": row.get("device"),
        }
        for row in sorted(rows, key=lambda row: (order.index(row["rung"]), row["seed"]))
    ] or list(labels.values())
    return write_atomically(path, lambda target: pd.DataFrame(lines).to_csv(target, index=False))


def _whence(part: str) -> str:
    return f"AUROC and Dice: {part} part, mean ± sd over seeds. Labels: all training images."


def _text(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    return "–" if value is None else f"{scale * value:.{digits}f}"
