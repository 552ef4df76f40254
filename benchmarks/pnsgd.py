"""Noise of projected noisy SGD after one epoch of unlearning: the exact account against the published rule.

``python benchmarks/pnsgd.py --out pnsgd.json`` uses the settings of the published experiment (Chien et al. 2024, MNIST
3 against 8): n = 11,264, logistic loss with L = 1 and smoothness 1/4, ridge 1e-6 n, η = 1/smoothness, δ = 1/n, K = 1.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from erode.accounting import pnsgd_distance, pnsgd_sigma
from erode.accounting.published import chien_sigma

SAMPLES = 11_264
RIDGE = 1e-6 * SAMPLES
LEARNING_RATE = 1 / (1 / 4 + RIDGE)
BATCH_SIZES, EPSILONS = (32, 128, 512, SAMPLES), (0.1, 1.0, 8.0)


def compare(batch_size: int, epsilon: float, epochs: int = 1) -> dict[str, float]:
    """Noise of one setting, in the paper's parametrisation."""
    process = {"learning_rate": LEARNING_RATE, "ridge": RIDGE}
    setting = {**process, "lipschitz": 1.0, "samples": SAMPLES, "batch_size": batch_size}
    steps = epochs * (SAMPLES // batch_size)
    step = pnsgd_sigma(epsilon, 1 / SAMPLES, distance=pnsgd_distance(**setting), **process, steps=steps)
    ours = step / math.sqrt(2 * LEARNING_RATE)
    published = chien_sigma(epsilon, 1 / SAMPLES, **setting, epochs=epochs)
    return {
        "batch_size": batch_size,
        "epsilon": epsilon,
        "epochs": epochs,
        "sigma_published": published,
        "sigma_exact": ours,
        "ratio": published / ours,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="noise of projected noisy SGD, exact against published")
    parser.add_argument("--out", type=Path, help="JSON file to write the rows to")
    arguments = parser.parse_args()
    rows = [compare(batch_size, epsilon) for epsilon in EPSILONS for batch_size in BATCH_SIZES]
    table = Table(title=f"n = {SAMPLES:,}, c = {1 - LEARNING_RATE * RIDGE:.3f}, δ = 1/n, one epoch of unlearning")
    for heading in ("ε", "b", "σ published", "σ exact", "published / exact"):
        table.add_column(heading, justify="right")
    for row in rows:
        sigmas = [f"{row[name]:.3g}" for name in ("sigma_published", "sigma_exact")]
        table.add_row(f"{row['epsilon']:g}", f"{row['batch_size']:,}", *sigmas, f"{row['ratio']:.2f}")
    Console().print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
