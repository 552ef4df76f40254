"""Tables and figure of a classification experiment: the curve over training images, and recall by subgroup."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ...files import write_text
from ...metrics import Proportion
from ...pictures import COLOURS, INK, new_figure, save_figure
from ...report.table import mean_and_sd
from ...tables import markdown_table

Row = dict[str, Any]

COLUMNS = (
    ("auroc", "AUROC"),
    ("auroc_foreground", "AUROC in foreground"),
    ("auroc_component", "AUROC of component"),
    ("auroc_robust", "robust AUROC"),
    ("auroc_foreground_robust", "robust AUROC in foreground"),
    ("auroc_worst", "worst pair AUROC"),
    ("balanced_accuracy", "balanced accuracy"),
    ("balanced_accuracy_classes", "… of classes"),
    ("dice_lesion", "lesion Dice"),
)
"""Columns of the first table: metric and title."""

PANELS = (("auroc", "AUROC"), ("auroc_robust", "robust AUROC"), ("balanced_accuracy", "balanced accuracy"))
"""Panels of the figure: metric and title."""


def write_report(out: Path, rows: Sequence[Row], positive: str) -> str:
    """Write ``classification.csv``, ``subgroups.csv``, ``classification.md`` and ``classification.png``.

    Args:
        out: folder.
        rows: as ``erode classify`` writes them.
        positive: name of the class that is recalled.

    Returns:
        The Markdown page.
    """
    whence = "Test part, mean ± sd over seeds; thresholds from the validation part."
    page = "\n\n".join([whence, curve_table(rows), f"Recall of class “{positive}”.", *subgroup_tables(rows)]) + "\n"
    write_text(out / "classification.md", page)
    write_text(out / "classification.csv", _metrics_csv(rows))
    write_text(out / "subgroups.csv", _subgroups_csv(rows))
    save_figure(curve_figure(rows), out / "classification.png")
    return page


def curve_table(rows: Sequence[Row]) -> str:
    """One line per arm and fraction, mean ± sd over seeds, as Markdown."""
    columns = [c for c in COLUMNS if any(row["metrics"].get(c[0]) is not None for row in rows)]
    head = ["training images", "arm", *(title for _, title in columns), "pseudo-masks"]
    lines = []
    for (fraction, arm), runs in _groups(rows).items():
        cells = [mean_and_sd([run["metrics"].get(name) for run in runs]) for name, _ in columns]
        cells.append(_pseudo(runs))
        lines.append([f"{runs[0]['images']} ({fraction:.0%})", arm, *cells])
    return markdown_table(head, lines, numbers={0, *range(2, len(head))})


def subgroup_tables(rows: Sequence[Row]) -> list[str]:
    """Recall, its interval and specificity by subgroup, one Markdown table per fraction.

    The interval is the exact one of as many recalled images as the seeds' mean, rounded: seeds share their test images,
    so their numbers cannot be added up. Where patients have several images it resamples patients.
    """
    tables = []
    for fraction in sorted({row["fraction"] for row in rows}):
        groups = {arm: runs for (f, arm), runs in _groups(rows).items() if f == fraction}
        first = next(iter(groups.values()))[0]
        lines = []
        for name, counts in first["subgroups"].items():
            cells = [_recall([run["subgroups"][name] for run in runs]) for runs in groups.values()]
            lines.append([name.replace("_", " "), str(counts["recall"][1]), *cells])
        head = ["subgroup", "positives", *groups]
        table = markdown_table(head, lines, numbers=range(1, len(head)))
        tables.append(f"**{first['images']} training images: recall [95 % interval], specificity**\n\n{table}")
    if any("recall_clusters" in counts for row in rows for counts in row["subgroups"].values()):
        tables.append("Patients have several images, so intervals resample patients.")
    return tables


def curve_figure(rows: Sequence[Row]) -> Figure:
    """Mean ± sd over seeds against the number of labelled training images, one panel per measure."""
    panels = [p for p in PANELS if all(row["metrics"].get(p[0]) is not None for row in rows)]
    figure = new_figure(3.7 * len(panels), 3.6)
    groups = _groups(rows)
    arms = list(dict.fromkeys(arm for _, arm in groups))
    ticks = sorted({row["images"] for row in rows})
    for index, (metric, title) in enumerate(panels):
        axis = figure.add_subplot(1, len(panels), index + 1)
        for turn, arm in enumerate(arms):
            runs = [runs for (_, name), runs in groups.items() if name == arm]
            values = [[run["metrics"][metric] for run in seeds] for seeds in runs]
            shift = 1.02 ** (2 * turn - len(arms) + 1)  # bars beside each other, not on top
            axis.errorbar(
                [seeds[0]["images"] * shift for seeds in runs],
                [statistics.mean(v) for v in values],
                [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values],
                marker="o", markersize=4, linewidth=1.6, elinewidth=1, capsize=2.5,
                color=COLOURS[turn % len(COLOURS)], label=arm,
            )  # fmt: skip
        axis.axhline(0.5, linestyle=":", linewidth=1, color="grey")
        axis.set_xscale("log")
        axis.margins(x=0.08)
        axis.set_xticks(ticks)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(title, fontsize=11, color=INK)
        axis.set_xlabel("labelled training images", fontsize=9)
        axis.set_ylabel(f"{title} (test part)", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(arms), frameon=False, fontsize=9)
    seeds = len({row["seed"] for row in rows})
    if seeds > 1:
        note = f"mean ± standard deviation over {seeds} seeds; dotted: chance"
        figure.suptitle(note, fontsize=9, color="#666666")
    return figure


def _groups(rows: Sequence[Row]) -> dict[tuple[float, str], list[Row]]:
    """Rows of one fraction and arm, all seeds; small fractions first, arms in the order in which they ran."""
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["fraction"]):
        groups.setdefault((row["fraction"], row["title"]), []).append(row)
    return groups


def _pseudo(runs: Sequence[Row]) -> str:
    if runs[0]["pseudo"] is None:
        return "–"
    kept = statistics.mean(run["pseudo"]["kept"] for run in runs)
    return f"{kept:.0f} of {runs[0]['pseudo']['predicted']}"


def _recall(counts: Sequence[dict[str, Any]]) -> str:
    successes = statistics.mean(count["recall"][0] for count in counts)
    trials = counts[0]["recall"][1]
    spared = [_share(count, "specificity") for count in counts]
    specificity = mean_and_sd([share.value for share in spared], 2) if spared[0].trials else "–"
    if not trials:
        return f"–, {specificity}"
    clusters = None
    if all("recall_clusters" in count for count in counts):  # of the same patients, whatever the seed
        patients = zip(*(count["recall_clusters"] for count in counts), strict=True)
        clusters = [[statistics.mean(hits for hits, _ in seeds), seeds[0][1]] for seeds in patients]
    low, high = Proportion(round(successes), trials, clusters).interval()
    return f"{successes / trials:.2f} [{low:.2f}, {high:.2f}], {specificity}"


def _share(counts: dict[str, Any], rate: str) -> Proportion:
    successes, trials = counts[rate]
    return Proportion(successes, trials, counts.get(f"{rate}_clusters"))


def _metrics_csv(rows: Sequence[Row]) -> str:
    names = sorted({name for row in rows for name in row["metrics"]})
    head = ["arm", "fraction", "images", "seed", "pseudo_masks", *names, "seconds", "device"]
    lines = [
        [row["arm"], row["fraction"], row["images"], row["seed"], (row["pseudo"] or {}).get("kept")]
        + [row["metrics"].get(name) for name in names]
        + [row["seconds"], row.get("device")]
        for row in rows
    ]
    return _csv(head, lines)


def _subgroups_csv(rows: Sequence[Row]) -> str:
    head = ["arm", "fraction", "images", "seed", "subgroup"]
    head += [f"{rate}_{end}" for rate in ("recall", "specificity") for end in ("images", "value", "low", "high")]
    lines = []
    for row in rows:
        for name, counts in row["subgroups"].items():
            cells: list[Any] = [row["arm"], row["fraction"], row["images"], row["seed"], name]
            for rate in ("recall", "specificity"):
                share = _share(counts, rate)
                cells += [share.trials, *((share.value, *share.interval()) if share.trials else ("", "", ""))]
            lines.append(cells)
    return _csv(head, lines)


def _csv(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()
