"""All measures of forgetting of some operators, beside a model retrained twice on the same split.

``python benchmarks/forgetting.py --out runs/forgetting`` trains the rows of SyntheticDermoscopy, retrains each split
once more with another seed, runs `erode measure` on each and prints means over seeds. It goes on where it stopped.

``… --comparison runs/isic-overlay --config benchmarks/isic_overlay.yaml --root FOLDER --operators fine_tune neg_grad
--out runs/measures-isic`` takes the rows of a comparison that `erode compare` finished from that configuration (others
are refused), and trains the second retraining alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from erode.benchmark.grid import Cell, merged
from erode.comparison import METHODS, Experiment, MethodName
from erode.datamodules import SyntheticDermoscopy
from erode.masks import DiskDilation
from erode.measures import measure
from erode.measures.table import LINES
from erode.report.table import mean_and_sd
from erode.tables import markdown_table

OPERATORS: tuple[MethodName, ...] = ("fine_tune", "neg_grad_plus", "scrub", "gradient_clipping")
AGAIN = 100
"""Added to the seed of the second retraining, which is on the split of the first."""
ENDS = {"sweep_none": "AUROC, if no positive image had the artefact", "sweep_all": "AUROC, if every one had it"}

Rows = Callable[[Path, Path | None], Experiment]
"""Rows in a folder, on the splits that seeds draw or on that of a file."""


def synthetic(steps: int, accelerator: str) -> Rows:
    def rows(out: Path, split_file: Path | None) -> Experiment:
        data = SyntheticDermoscopy(
            coarsening=DiskDilation(half_width=8), fine_fraction=0.1, batch_size=16, split_file=split_file
        )
        return Experiment(data, out=out, steps=steps, accelerator=accelerator)

    return rows


def configured(path: Path, root: Path | None, accelerator: str) -> Rows:
    """Rows of a configuration of `erode compare`; an experiment refuses a folder whose rows had other settings."""
    given = merged(yaml.safe_load(path.read_text(encoding="utf-8")), {"accelerator": accelerator})
    if root is not None:
        given = merged(given, {"data": {"init_args": {"root": str(root)}}})

    def rows(out: Path, split_file: Path | None) -> Experiment:
        split: dict[str, Any] = {} if split_file is None else {"split_file": str(split_file)}
        return Cell({}, merged(given, {"data": {"init_args": split}})).experiment(out, None)

    return rows


def measured(
    rows: Rows, comparison: Path, operators: Sequence[MethodName], out: Path, seed: int, accelerator: str
) -> dict[str, dict[str, float | None]]:
    """Values of all models of one seed, by title."""
    first = rows(comparison, None)
    weights = {}
    for name in ("coarse", "retain_view", *operators):
        first.row(name, seed)
        weights[name] = first.weights(name, seed)
    again = rows(out / f"again-{seed}", weights["retain_view"].parent / "split.json")
    again.row("retain_view", seed + AGAIN)
    references = [weights["retain_view"], again.weights("retain_view", seed + AGAIN)]
    found: dict[str, dict[str, float | None]] = {}
    for name in operators:
        folder = out / "measures" / f"{name}-seed{seed}"
        if not (folder / "measures.json").exists():
            measure(
                again.data, first.model(), weights[name], references, weights["coarse"], out=folder, held_out="test",
                relearn_steps=200, seed=seed, accelerator=accelerator,
            )  # fmt: skip
        content = json.loads((folder / "measures.json").read_text(encoding="utf-8"))
        values = content["values"]
        for title, points in content["sweep"].items():
            if points:
                values[title] |= {"sweep_none": points[0][1], "sweep_all": points[-1][1]}
        found[METHODS[name].title] = values["unlearnt"]
        found |= {title: values[title] for title in ("original", "retrained", "retrained again")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="what operators forgot, beside models retrained twice")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--operators", nargs="+", choices=sorted(METHODS), default=OPERATORS)
    parser.add_argument("--steps", type=int, default=600, help="of the rows of synthetic data")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--comparison", type=Path, help="folder of a finished comparison, whose rows are taken")
    parser.add_argument("--config", type=Path, help="its configuration")
    parser.add_argument("--root", type=Path, help="of its data, where the configuration names another place")
    parser.add_argument("--out", type=Path, default=Path("runs/forgetting"))
    arguments = parser.parse_args()
    if (arguments.comparison is None) != (arguments.config is None):
        parser.error("--comparison and --config go together: the rows, and what they were trained from")
    if arguments.config is None:
        rows, comparison = synthetic(arguments.steps, arguments.accelerator), arguments.out / "rows"
    else:
        rows = configured(arguments.config, arguments.root, arguments.accelerator)
        comparison = arguments.comparison
    runs = [
        measured(rows, comparison, arguments.operators, arguments.out, seed, arguments.accelerator)
        for seed in arguments.seeds
    ]
    titles = ["original", *(METHODS[name].title for name in arguments.operators), "retrained", "retrained again"]
    lines = []
    for key, title in [*((key, title) for key, title, _ in LINES), *ENDS.items()]:
        cells = [mean_and_sd([run[name].get(key) for run in runs]) for name in titles]
        lines.append([title, *cells])
    print(markdown_table(["measure", *titles], lines, numbers=range(1, len(titles) + 1)))


if __name__ == "__main__":
    main()
