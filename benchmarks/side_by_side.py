"""Put the tables of a finished grid into a page of docs, between markers, and draw its pictures.

python benchmarks/side_by_side.py runs/operators             # docs/side_by_side.md, and the short form in README.md
python benchmarks/side_by_side.py runs/paper --page paper    # docs/paper.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from erode.benchmark.dots import leakage_figure
from erode.benchmark.figures import spurious_figure
from erode.benchmark.tables import cells_of, markdown, table_of
from erode.files import write_text
from erode.pictures import save_figure
from erode.tables import markdown_table

ROOT = Path(__file__).parents[1]
END = "<!-- measured: end -->\n"

SHORT_ROWS = (
    "coarse", "fine_tune", "neg_grad_plus", "scrub", "retrain_fine", "retain_view", "rewind", "gradient_clipping",
    "residual_certificate", "pcmu", "same_noise", "oracle",
)  # fmt: skip
SHORT_COLUMNS = (
    ("synthetic: lesion Dice", "90 %, synthetic, three classes", "lesion Dice"),
    ("synthetic: leakage", "90 %, synthetic, three classes", "leakage"),
    ("ISIC 2017: lesion Dice", "90 %, ISIC, three classes", "lesion Dice"),
    ("ISIC: membership AUC", "90 %, ISIC, three classes", "membership AUC"),
)
"""Of the short form: title, cell of the grid, column of its table."""


def short(results: pd.DataFrame, timings: pd.DataFrame) -> str:
    """Some rows of two cells, in one table."""
    chosen = results[results["method"].isin(SHORT_ROWS)]
    columns: dict[str, dict[str, str]] = {}
    for name, cell in cells_of(chosen):
        head, *lines = table_of(cell, timings)
        for title, wanted, column in SHORT_COLUMNS:
            if wanted == name:
                columns.setdefault("(ε, δ)", {line[0]: line[1] for line in lines})
                columns[title] = {line[0]: line[head.index(column)] for line in lines}
    rows = [[title, *(column.get(title, "–") for column in columns.values())] for title in columns["(ε, δ)"]]
    return markdown_table(["operator", *columns], rows)


def put(page: Path, start: str, text: str) -> None:
    """Write text between a marker of a page and the next end of what is measured."""
    before, rest = page.read_text(encoding="utf-8").split(f"{start}\n")
    after = rest.split(END, maxsplit=1)[1]
    write_text(page, f"{before}{start}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of erode benchmark")
    parser.add_argument("--page", default="side_by_side", help="name of the page, and of its pictures")
    arguments = parser.parse_args()
    results, timings = (pd.read_csv(arguments.run / f"{name}.csv") for name in ("results", "timings"))
    put(ROOT / "docs" / f"{arguments.page}.md", "<!-- measured: tables -->", markdown(results, timings))
    if arguments.page == "side_by_side":
        put(ROOT / "README.md", "<!-- measured: operators -->", short(results, timings))
    figures = {"": leakage_figure(results), "_s_global": spurious_figure(results, arguments.run)}
    for name, figure in figures.items():
        if figure is not None:
            save_figure(figure, ROOT / "docs" / f"{arguments.page}{name}.png")


if __name__ == "__main__":
    main()
