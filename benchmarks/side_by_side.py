"""Put the tables of a finished grid into docs/side_by_side.md, between its markers.

python benchmarks/side_by_side.py runs/operators
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from erode.benchmark.tables import markdown
from erode.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "side_by_side.md"
START, END = "<!-- measured: tables -->\n", "<!-- measured: end -->\n"


def main(run: Path) -> None:
    tables = markdown(pd.read_csv(run / "results.csv"), pd.read_csv(run / "timings.csv"))
    head, rest = PAGE.read_text(encoding="utf-8").split(START)
    tail = rest.split(END)[1]
    write_text(PAGE, f"{head}{START}{tables}\n{END}{tail}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
