"""Whether many runs that unlearnt can be told, pixel by pixel, from many that never saw the forget set.

``python benchmarks/ensembles.py --out runs/ensembles`` trains independent runs of SyntheticDermoscopy on one split, 32²
pixels, and asks `erode measure` for the smallest ε that two ensembles allow. A certified run is held against what its
certificate names, the same unlearning of a model that was trained without the forget set, and, as all others, against
retraining. The control splits the retrained runs in two halves. It goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything

from erode.callbacks import GradientClipping
from erode.comparison import Experiment, MethodName
from erode.comparison.trainer import row_trainer
from erode.datamodules import SyntheticDermoscopy
from erode.masks import DiskDilation
from erode.measures import measure
from erode.tables import markdown_table
from erode.weights import load_weights

DELTA = 1e-7
ROWS: tuple[MethodName, ...] = ("coarse", "fine_tune", "gradient_clipping", "retain_view")


def dermoscopy(split_file: Path | None = None) -> SyntheticDermoscopy:
    return SyntheticDermoscopy(
        size=32, train_images=200, val_images=40, test_images=200, coarsening=DiskDilation(half_width=4),
        fine_fraction=0.1, batch_size=16, split_file=split_file,
    )  # fmt: skip


def one_split(out: Path) -> Path:
    """The split that all runs share, in a file."""
    path = out / "split.json"
    if not path.exists():
        data = dermoscopy()
        data.prepare_data()
        data.setup("fit")
        path.parent.mkdir(parents=True, exist_ok=True)
        data.split.save(path)
    return path


def reference_of_the_certificate(rows: Experiment, seed: int, folder: Path) -> Path:
    """The certified run with another seed, on a model that never saw the forget set."""
    released = folder / "weights.safetensors"
    if not released.exists():
        seed_everything(10_000 + seed, verbose=False)
        module = rows.model()
        load_weights(module, rows.weights("retain_view", seed))
        operator = GradientClipping(epsilon=rows.epsilon, delta=rows.delta, folder=folder)
        quiet = {"logger": False, "enable_progress_bar": False}
        trainer = row_trainer(rows.data, rows.steps, folder, rows.accelerator, callbacks=[operator], **quiet)
        trainer.fit(module, datamodule=rows.data)
    return released


def ensembles(rows: Experiment, unlearnt: list[Path], references: list[Path], folder: Path) -> dict[str, Any]:
    """What `erode measure` says of the two."""
    path = folder / "measures.json"
    if not path.exists():
        measure(
            rows.data, rows.model(), unlearnt, references, out=folder, held_out="test", delta=DELTA, bootstrap=20,
            accelerator=rows.accelerator,
        )  # fmt: skip
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["ensembles"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=40, help="independent runs of each kind")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/ensembles"))
    arguments = parser.parse_args()
    out = arguments.out
    data = dermoscopy(one_split(out))
    rows = Experiment(data, out=out / "rows", steps=arguments.steps, accelerator=arguments.accelerator, delta=DELTA)
    seeds = range(arguments.models)
    for seed in [*seeds, *(seed + arguments.models for seed in seeds)]:
        rows.row("retain_view", seed)
        for name in ROWS[:3] if seed < arguments.models else ():
            rows.row(name, seed)
    retrained = [rows.weights("retain_view", seed) for seed in seeds]
    again = [rows.weights("retain_view", seed + arguments.models) for seed in seeds]
    own = [
        reference_of_the_certificate(rows, seed + arguments.models, out / "references" / str(seed)) for seed in seeds
    ]
    runs = {name: [rows.weights(name, seed) for seed in seeds] for name in ROWS[:3]}
    pairs = {
        "coarse masks, against retraining": (runs["coarse"], retrained),
        "fine-tune, against retraining": (runs["fine_tune"], retrained),
        "certified, against retraining": (runs["gradient_clipping"], retrained),
        "certified, against its reference": (runs["gradient_clipping"], own),
        "retraining, against retraining": (again, retrained),
    }
    lines = []
    for number, (title, (unlearnt, references)) in enumerate(pairs.items()):
        found = ensembles(rows, unlearnt, references, out / "measures" / str(number))
        lines.append([title, f"{found['epsilon_at_least']:.2f}", f"{found['could_show_at_most']:.2f}"])
    print(markdown_table(["runs", "ε at least", "the most that so many could show"], lines, numbers={1, 2}))


if __name__ == "__main__":
    main()
