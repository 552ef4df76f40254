"""What approximate operators gain from the data they call retained, from pushing away, and from their teacher.

``python benchmarks/retained.py --out runs/retained`` runs fine-tuning, SCRUB and NegGrad+ on the fine images and on the
retain view, and SCRUB with less of its teacher, on SyntheticDermoscopy; every choice was made on these *validation*
images, with seeds that no table uses. It goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from erode.callbacks import FineTune, NegGradPlus, Scrub, UnlearningOperator
from erode.comparison import METHODS, Method, MethodName, Task, compare
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.masks import DiskDilation, View

OPERATORS: dict[str, Callable[..., UnlearningOperator]] = {
    "fine-tune, fine images": FineTune,
    "SCRUB, α = 0.1, fine images": functools.partial(Scrub, alpha=0.1, only_fine=True),
    "NegGrad+, fine images": functools.partial(NegGradPlus, only_fine=True),
    "fine-tune, retain view": functools.partial(FineTune, only_fine=False),
    "SCRUB, α = 0.1, retain view": functools.partial(Scrub, alpha=0.1),
    "SCRUB, α = 0.01, retain view": functools.partial(Scrub, alpha=0.01),
    "NegGrad+, retain view": NegGradPlus,
    "NegGrad+, β = 0.95, retain view": functools.partial(NegGradPlus, beta=0.95),
}


def row(title: str, operator: Callable[..., UnlearningOperator]) -> Method:
    """A row from the coarse model."""

    def made(task: Task) -> UnlearningOperator:
        return operator(folder=task.folder)

    view = View.FINE_SUBSET if "fine images" in title else View.RETAIN
    return Method(title, title, view, made, start="coarse")


def main() -> None:
    parser = argparse.ArgumentParser(description="what approximate operators gain from what is retained")
    parser.add_argument("--tasks", nargs="+", choices=("binary", "multiclass"), default=("binary", "multiclass"))
    parser.add_argument("--fine-fractions", nargs="+", type=float, default=(0.1, 0.5))
    parser.add_argument("--seeds", nargs="+", type=int, default=(10, 11, 12, 13, 14, 15))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/retained"))
    arguments = parser.parse_args()
    rows: dict[Any, Method] = {f"retained{n}": row(*item) for n, item in enumerate(OPERATORS.items())}
    METHODS.update(rows)
    for task in arguments.tasks:
        for fraction in arguments.fine_fractions:
            data = SyntheticDermoscopy(
                task=task, batch_size=8, coarsening=DiskDilation(half_width=8), fine_fraction=fraction
            )
            compare(
                data,
                functools.partial(SegmentationModule, num_classes=data.num_classes, class_names=data.class_names),
                out=arguments.out / f"{task}-{fraction:g}",
                steps=arguments.steps,
                seeds=arguments.seeds,
                methods=cast("list[MethodName]", ["coarse", *rows]),
                evaluate_on="val",
                accelerator="cpu",
            )


if __name__ == "__main__":
    main()
