"""How many images a fitted pixel head can forget by a Newton step, beside the rates of theory (Sekhari et al. 2021).

``python benchmarks/capacity.py --out capacity.json --picture docs/capacity.png``. Encoder and data as in
``pixel_head.py``; the head is fitted to the retain view for each λ, and its curvature there gives the excess risk. For
another n than that of the fit, the curvature is held fixed. Dice is that of the noiseless head on the validation part.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from pixel_head import CHANNELS, DELTA, data_of, encoder_of, trainer
from rich.console import Console
from rich.table import Table

from erode.accounting import newton_capacity_rate, privacy_capacity_rate
from erode.capacity_figure import FittedHead, capacity_figure
from erode.lightning_modules import PixelHead
from erode.pictures import save_figure
from erode.ridge import minimise


def fit(arguments: argparse.Namespace, folder: Path) -> list[tuple[FittedHead, float]]:
    """The head at each λ, and its lesion Dice on the validation part."""
    seed_everything(arguments.seed, verbose=False)
    data = data_of(arguments, arguments.seed)
    encoder, length, file = encoder_of(data, arguments.steps, folder)
    data.serve("retain")
    module = PixelHead(
        encoder, CHANNELS, num_classes=data.num_classes, class_names=data.class_names, ridge=max(arguments.ridges),
        feature_norm=length, encoder_weights=str(file), bootstrap=0,
    )  # fmt: skip
    trainer(folder, max_steps=1).fit(module, datamodule=data)
    objective = module.objective()  # while the run's loader is there
    heads = []
    for ridge in sorted(arguments.ridges, reverse=True):  # from the easiest, each a start for the next
        objective.ridge = ridge
        weights, _, _ = minimise(objective, module.head.detach(), tolerance=1e-9)
        with torch.no_grad():
            module.head.copy_(weights)
        curvature = torch.linalg.eigvalsh(objective.hessian(weights))
        head = FittedHead(
            ridge=ridge, num_classes=len(weights), parameters=weights.numel(), samples=objective.samples,
            trace=float(curvature.sum()), largest=float(curvature[-1]),
        )  # fmt: skip
        scores = trainer(folder, limit_val_batches=1.0).validate(module, datamodule=data, verbose=False)[0]
        heads.append((head, scores["val/dice_lesion"]))
    return heads


def first(head: FittedHead, epsilon: float) -> int:
    """Smallest n, as a power of ten, at which one image can be forgotten."""
    return next(n for n in (10**power for power in range(13)) if head.capacity(epsilon, DELTA, n) >= 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="deletion capacity of a pixel head")
    parser.add_argument("--isic", type=Path, help="folder of ISIC 2017; left out = synthetic data")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side, for ISIC")
    parser.add_argument("--images", type=int, default=600, help="training images of the synthetic data")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the encoder")
    parser.add_argument("--ridges", type=float, nargs="+", default=[1e-1, 1e-2, 1e-3, 1e-4])
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write the rows to")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(arguments, Path(folder))
    rows: list[dict[str, Any]] = []
    for head, dice in fitted:
        size: dict[str, int] = {"samples": head.samples, "parameters": head.parameters}
        rows.append({
            **asdict(head), "epsilon": arguments.epsilon, "delta": DELTA, "validation_dice": dice,
            "capacity_fitted": head.capacity(arguments.epsilon, DELTA),
            "capacity_bound": head.bound(arguments.epsilon, DELTA),
            "first_power_of_ten": first(head, arguments.epsilon),
            "rate_newton": newton_capacity_rate(arguments.epsilon, DELTA, **size),
            "rate_privacy": privacy_capacity_rate(arguments.epsilon, DELTA, **size),
        })  # fmt: skip
    table = Table(*rows[0], title="deletion capacity of the Newton step")
    for row in rows:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console(width=200).print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.picture:
        save_figure(capacity_figure([head for head, _ in fitted], epsilon=arguments.epsilon), arguments.picture)


if __name__ == "__main__":
    main()
