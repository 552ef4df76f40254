"""All measures of forgetting of some operators, beside a model retrained twice on the same split.

``python benchmarks/forgetting.py --out runs/forgetting`` trains the rows of SyntheticDermoscopy, retrains each split
once more with another seed, runs `erode measure` on each and prints means over seeds. It goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from erode.comparison import METHODS, Experiment, MethodName
from erode.datamodules import SyntheticDermoscopy
from erode.masks import DiskDilation
from erode.measures import measure
from erode.measures.table import LINES
from erode.report.table import mean_and_sd

OPERATORS: tuple[MethodName, ...] = ("fine_tune", "neg_grad_plus", "scrub", "gradient_clipping")
AGAIN = 100
"""Added to the seed of the second retraining, which is on the split of the first."""


def data(split_file: Path | None = None) -> SyntheticDermoscopy:
    return SyntheticDermoscopy(
        coarsening=DiskDilation(half_width=8), fine_fraction=0.1, batch_size=16, split_file=split_file
    )


def measured(out: Path, steps: int, seed: int, accelerator: str) -> dict[str, dict[str, float | None]]:
    """Values of all models of one seed, by title."""
    rows = Experiment(data(), out=out / "rows", steps=steps, accelerator=accelerator)
    for name in ("coarse", "retain_view", *OPERATORS):
        rows.row(name, seed)
    weights = {name: rows.weights(name, seed) for name in ("coarse", "retain_view", *OPERATORS)}
    split = weights["retain_view"].parent / "split.json"
    again = Experiment(data(split), out=out / f"again-{seed}", steps=steps, accelerator=accelerator)
    again.row("retain_view", seed + AGAIN)
    references = [weights["retain_view"], again.weights("retain_view", seed + AGAIN)]
    found: dict[str, dict[str, float | None]] = {}
    for name in OPERATORS:
        folder = out / "measures" / f"{name}-seed{seed}"
        if not (folder / "measures.json").exists():
            measure(
                data(split), rows.model(), weights[name], references, weights["coarse"], out=folder, held_out="test",
                relearn_steps=200, seed=seed, accelerator=accelerator,
            )  # fmt: skip
        values = json.loads((folder / "measures.json").read_text(encoding="utf-8"))["values"]
        found[METHODS[name].title] = values["unlearnt"]
        found |= {title: values[title] for title in ("original", "retrained", "retrained again")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="what operators forgot, beside models retrained twice")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/forgetting"))
    arguments = parser.parse_args()
    runs = [measured(arguments.out, arguments.steps, seed, arguments.accelerator) for seed in arguments.seeds]
    titles = ["original", *(METHODS[name].title for name in OPERATORS), "retrained", "retrained again"]
    print("| measure | " + " | ".join(titles) + " |\n| --- |" + " ---: |" * len(titles))
    for key, title, _ in LINES:
        cells = [mean_and_sd([run[name].get(key) for run in runs]) for name in titles]
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
