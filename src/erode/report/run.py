"""What a folder of ``erode fit`` or ``erode unlearn`` tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..certificates import VerificationError, check, check_record
from ..pictures import Panel, curves_figure, save_figure
from .evidence import certificate_section
from .page import Missing, Section, facts, folded, number, paragraph, picture, table, words
from .reading import Table, curve, read_csv, read_json

DRAWN = "curves.png"

REMEDIES = {
    "unlearned/unlearning.json": "record of an unlearning run; erode unlearn writes it",
    "unlearned/split.json": "the forget/retain split; written where the DataModule is one of erode's",
    "metrics.csv": "curves; add Lightning's CSVLogger",
    "spurious_information.csv": "S_global, leakage and Dice through the run; add SpuriousInformationMonitor",
    "gallery.png": "predictions before and after; add PredictionGallery",
    "config.yaml": "the configuration; the erode command line writes it",
}
"""What can be shown, and where it comes from."""

HEADLINE = ("operator", "guarantee", "paper", "completed", "why", "view", "steps", "seconds")
"""The first facts of a record, in this order; the others follow as they stand."""

TITLES = {
    "s_global": "S_global [nats]",
    "leakage": "leakage",
    "gap": "gap",
    "dice_lesion": "lesion Dice",
    "dice_class": "class Dice",
}
"""What people read for the columns of the monitor's table."""

GUARANTEES = {
    "exact": "Exact: the released weights come from training that never saw the forget set (ε = 0, δ = 0).",
    "certified": "Certified: (ε, δ)-indistinguishable from weights made without the forget set.",
    "approximate": "Approximate: nothing is guaranteed; only the metrics tell how much was forgotten.",
}


KEEP = (
    "This page holds logs of the run, so it stays with its owner: only weights.safetensors may leave, with its "
    "certificate where there is one."
)
"""Of a run that promises something."""


def run_sections(run: Path, out: Path) -> tuple[list[Section], Missing]:
    """The record, the monitors, the curves and the configuration, as far as they exist.

    Args:
        run: folder of a run.
        out: folder for the curves.

    Raises:
        ValueError: for files that cannot be read.
    """
    there = {name: run / name for name in REMEDIES if (run / name).is_file()}
    makers = (_record, _certificate, _before_and_after, _gallery, _curves, _configuration)
    sections = [section for make in makers if (section := make(run, out, there)) is not None]
    missing = [(name, remedy) for name, remedy in REMEDIES.items() if name not in there]
    return sections, missing


def _record(run: Path, out: Path, there: dict[str, Path]) -> Section | None:
    record: dict[str, Any] = {}
    html = ""
    if path := there.get("unlearned/unlearning.json"):
        content = read_json(path)
        record = {key: content[key] for key in HEADLINE if key in content}
        record |= {key: value for key, value in content.items() if key not in record}
        promise = _promise(content, path)
        html += paragraph(promise)
        if promise in (GUARANTEES["exact"], GUARANTEES["certified"]):
            outlook = content.get("outlook")
            html += paragraph(f"Of the trained weights: {outlook['in_words']}.") if outlook else ""
            html += paragraph(KEEP)
    if path := there.get("unlearned/split.json"):
        split = read_json(path)
        counts = {name: len(split.get(name, ())) for name in ("fine", "coarse")}
        record["forget set"] = {
            "images with fine masks": counts["fine"],
            "images with coarse masks only": counts["coarse"],
            **{words(key): split[key] for key in ("coarsening", "fine_fraction", "seed", "digest") if key in split},
        }
    return Section("What was unlearned, and how", html + facts(record)) if record else None


def _promise(record: dict[str, Any], path: Path) -> str:
    """What the weights in the folder are; a promise only of those that the run released, and that still holds."""
    if not record.get("completed"):
        return "The run was cut short: nothing was released."
    try:
        check_record(record, path)
        if record.get("guarantee") == "certified":
            check(path.with_name("certificate.json"))
    except VerificationError as error:
        return f"Nothing is promised of what stands in this folder now: {error}"
    return GUARANTEES.get(str(record.get("guarantee")), "Nothing is guaranteed.")


def released_weights(run: Path) -> str | None:
    """Digest of the weights that a run released, if it did."""
    path = run / "unlearned/unlearning.json"
    digest = read_json(path).get("released_weights") if path.is_file() else None
    return None if digest is None else str(digest)


def _certificate(run: Path, out: Path, there: dict[str, Path]) -> Section | None:
    return certificate_section(run / "unlearned")


def _before_and_after(run: Path, out: Path, there: dict[str, Path]) -> Section | None:
    path = there.get("spurious_information.csv")
    columns = read_csv(path) if path else {}
    if not columns:
        return None
    names = [name for name in columns if name not in ("step", "seconds", "weights")]
    weights = columns["weights"]
    picks = [("original weights", weights.index("original"))] if "original" in weights else []
    picks.append((f"step {columns['step'][-1]}", len(weights) - 1))
    rows = [[title, *(_cell(columns[name][at]) for name in names)] for title, at in picks]
    html = paragraph(
        "On the validation part. S_global [nats per image] is 0 for empty masks too; it means forgetting "
        "only where the gap falls and Dice does not."
    )
    html += table(["weights", *(TITLES.get(name, name) for name in names)], rows)
    drawn = run / "spurious_information.png"
    if drawn.is_file():
        html += picture(drawn, "Curves of S_global, leakage and gap, and Dice over optimiser steps")
    return Section("Spurious information", html)


def _gallery(run: Path, out: Path, there: dict[str, Path]) -> Section | None:
    if "gallery.png" not in there:
        return None
    alt = "Validation images with outlined artefacts, their masks, and predictions before and after the run"
    return Section("Predictions", picture(there["gallery.png"], alt))


def _curves(run: Path, out: Path, there: dict[str, Path]) -> Section | None:
    path = there.get("metrics.csv")
    columns = read_csv(path) if path else {}
    panels = [panel for panel in _panels(columns) if panel.curves]
    if not panels:
        return None
    drawn = save_figure(curves_figure(panels), out / DRAWN)
    titles = ", ".join(panel.title for panel in panels)
    html = picture(drawn, f"Curves over optimiser steps: {titles}")
    last = [
        [name, number(values[-1], 4)]
        for name in columns
        if name not in ("step", "epoch") and (values := curve(columns, name)[1])
    ]
    return Section("Curves", html + table(["last value", ""], last))


def _panels(columns: Table) -> list[Panel]:
    losses = [name for name in columns if name.startswith("train/loss")]
    dice = [name for name in columns if name.startswith("val/dice")]
    spurious = [name for name in columns if name in ("val/s_global", "spurious/s_global")]
    wanted = [
        ("training loss", "loss", losses),
        ("validation Dice", "Dice", dice),
        ("validation S_global", "nats per image", spurious),
    ]
    return [
        Panel(title, unit, {name: points for name in names if (points := curve(columns, name))[0]})
        for title, unit, names in wanted
    ]


def _configuration(run: Path, out: Path, there: dict[str, Path]) -> Section | None:
    if "config.yaml" not in there:
        return None
    return Section("Configuration", folded("config.yaml", there["config.yaml"].read_text(encoding="utf-8")))


def _cell(text: str) -> str:
    try:
        return number(float(text))
    except ValueError:
        return text
