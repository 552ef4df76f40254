"""How much noise each account asks for at the same certificate: ours against the published rules.

``python benchmarks/noise.py --out noise.json`` prints, for gradient clipping with C0 = C1 = 1 and γ = 0.01,
the noise of each step for the three references, and how many times more the published rules ask for.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from erode.accounting import Reference, gdp_mu, gradient_clipping_sigma
from erode.accounting.published import classical_mu, koloskova_sigma, renyi_mu

RADIUS, CLIP_NORM, LEARNING_RATE = 1.0, 1.0, 0.01
EPSILONS, DELTAS = (0.1, 1.0, 3.0, 8.0), (1e-5, 1e-7)
WEIGHT_DECAYS, STEPS = (0.0, 1.0, 10.0), (1, 10, 100, 1000)
REFERENCES: tuple[Reference, ...] = ("retrained", "anchor", "noise")

Row = dict[str, float | None]


def compare(epsilon: float, delta: float, weight_decay: float, steps: int) -> Row:
    """Noise of one setting; None where a published rule says nothing."""
    row: Row = {"epsilon": epsilon, "delta": delta, "weight_decay": weight_decay, "steps": steps}
    published = None
    if weight_decay == 0:
        published = koloskova_sigma(
            epsilon, delta, radius=RADIUS, clip_norm=CLIP_NORM, learning_rate=LEARNING_RATE, steps=steps
        )
    for reference in REFERENCES:
        sigma = gradient_clipping_sigma(
            epsilon,
            delta,
            radius=RADIUS,
            clip_norm=CLIP_NORM,
            learning_rate=LEARNING_RATE,
            weight_decay=weight_decay,
            steps=steps,
            reference=reference,
        )
        row[f"sigma_{reference}"] = sigma
        row[f"koloskova_over_{reference}"] = published / sigma if published else None
    # The other two rules bound the same Gaussian trade-off, so they cost the same factor for every reference.
    mu = gdp_mu(epsilon, delta)
    row["renyi_over_ours"] = mu / renyi_mu(epsilon, delta)
    row["classical_over_ours"] = mu / classical_mu(epsilon, delta) if epsilon <= 1 else None
    return row


def table(rows: list[Row]) -> Table:
    """Rows as a table; ratios above 1 mean that the published rule asks for more noise."""
    result = Table(title="Noise per step and coordinate, gradient clipping (C0 = C1 = 1, γ = 0.01)")
    for heading in ("ε", "δ", "λ", "T", *(f"σ {reference}" for reference in REFERENCES)):
        result.add_column(heading, justify="right")
    for heading in (
        *(f"Koloskova\n/ {reference}" for reference in REFERENCES),
        "Rényi\n/ ours",
        "classical\n/ ours",
    ):
        result.add_column(heading, justify="right", style="cyan")
    for row in rows:
        epsilon, delta, weight_decay, steps, *_ = row.values()
        sigmas = [f"{row[f'sigma_{reference}']:.3g}" for reference in REFERENCES]
        ratios = [value for name, value in row.items() if "_over_" in name]
        shown = ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        result.add_row(f"{epsilon:g}", f"{delta:g}", f"{weight_decay:g}", f"{steps:g}", *sigmas, *shown)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="noise of ours against the published rules")
    parser.add_argument("--out", type=Path, help="JSON file to write the rows to")
    arguments = parser.parse_args()
    settings = list(product(EPSILONS, DELTAS, WEIGHT_DECAYS, STEPS))
    rows = [compare(*setting) for setting in track(settings, "calibrating", transient=True)]
    Console().print(table(rows))
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
