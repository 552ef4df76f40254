"""What the artefacts of a data set tell of the label, part by part, before anything is trained on it."""

from __future__ import annotations

import math
from pathlib import Path

from ...datamodules import Correlation, MaskDataModule, artefact_correlations
from ...files import write_json
from ...tables import show_table


def correlations(data: MaskDataModule, out: Path | None = None) -> None:
    """Print how each artefact flag correlates with the label in each part of the data.

    Positive are the images whose presence AUROC ranks: those of the last class, for ISIC the malignant ones.

    Args:
        data: any DataModule of ours with artefact flags.
        out: JSON file to write the same numbers to.

    Raises:
        ValueError: if no image has both a flag and a known label.
    """
    cases = [case for part in ("train", "val", "test") for case in data.part(part)]
    rows = artefact_correlations(cases, data.is_positive)
    if not rows:
        raise ValueError("no image has artefact flags and a known label to correlate: give tables of them")
    show_correlations(rows)
    if out is not None:
        write_json(out, [row.plain() for row in rows])


def show_correlations(rows: list[Correlation]) -> None:
    """Print a line per artefact, a column per part: phi, and the shares with artefact among positive and negative."""
    parts = list(dict.fromkeys(row.part for row in rows))
    known = {(row.artefact, row.part): row for row in rows}
    first = {part: next(row for row in rows if row.part == part) for part in parts}
    titles = [f"{part}\n{first[part].positive} of {first[part].images} positive" for part in parts]
    artefacts = dict.fromkeys(row.artefact for row in rows)
    lines = [[artefact, *(_cell(known[artefact, part]) for part in parts)] for artefact in artefacts]
    title = "phi (P(artefact | positive), P(artefact | negative))"
    show_table(["artefact", *titles], lines, range(1, len(parts) + 1), title=title, width=0)


def _cell(row: Correlation) -> str:
    value = "–" if math.isnan(row.phi) else f"{row.phi:+.3f}"
    return f"{value} ({row.artefacts_positive:.0%}, {row.artefacts_negative:.0%})"
