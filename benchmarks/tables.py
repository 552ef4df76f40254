"""A Markdown table, mean ± sd over seeds, from the comparison.json that `erode compare` writes.

python benchmarks/tables.py runs/isic-dilated/comparison.json dice_lesion dice_benign dice_malignant
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from erode.report.table import mean_and_sd
from erode.tables import markdown_table


def comparison_table(path: Path, names: list[str]) -> str:
    """One line per method.

    Args:
        path: a ``comparison.json``.
        names: metrics; none = the columns of the comparison.
    """
    comparison = json.loads(path.read_text(encoding="utf-8"))
    columns = [(name, name.replace("_", " ")) for name in names] or comparison["columns"]
    lines = []
    for method in dict.fromkeys(row["method"] for row in comparison["rows"]):
        runs = [row for row in comparison["rows"] if row["method"] == method]
        cells = [mean_and_sd([run["metrics"].get(name) for run in runs]) for name, _ in columns]
        lines.append([runs[0]["title"], *cells])
    head = ["method", *(title for _, title in columns)]
    return markdown_table(head, lines, numbers=range(1, len(head)))


if __name__ == "__main__":
    print(comparison_table(Path(sys.argv[1]), sys.argv[2:]))
