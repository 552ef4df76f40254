"""How often the intervals of membership inference hold the truth, where the atoms of an image depend on one another.

``python benchmarks/membership_intervals.py --out intervals.json``: scores of atoms are the effect of their image plus
noise of their own, both N(0, 1), and members are shifted; so the true AUCs are known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

from erode.files import write_json
from erode.metrics import MembershipInference

ATOMS, DRAWS, RESAMPLES = 12, 1000, 200
SETTINGS = ((0.0, 30, 24), (0.8, 30, 24), (2.0, 30, 24), (0.8, 60, 15))
"""Shift of members, number of members, number of non-members."""


def coverage(shift: float, members: int, others: int, seed: int = 11) -> dict[str, float]:
    """Share of draws whose 95 % interval holds the true AUC, per level."""
    generator = torch.Generator().manual_seed(seed)
    member = torch.arange(members + others) < members
    truth = {level: stats.norm.cdf(shift / (2 * (1 + 1 / n)) ** 0.5) for level, n in (("atom", 1), ("image", ATOMS))}
    hits = dict.fromkeys(truth, 0)
    for _ in range(DRAWS):
        image = torch.randn(len(member), 1, generator=generator) + shift * member[:, None]
        scores = image + torch.randn(len(member), ATOMS, generator=generator)
        metric = MembershipInference(bootstrap=RESAMPLES)
        metric.update(scores, torch.ones_like(scores, dtype=torch.bool), member, torch.arange(len(member)))
        result = metric.result()
        for level, attack in (("atom", result.atom), ("image", result.image)):
            hits[level] += int(attack.auc_interval[0] <= truth[level] <= attack.auc_interval[1])
    return {level: count / DRAWS for level, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    table = Table("shift", "members", "non-members", "atom", "image", title="coverage of 95 % intervals")
    rows = []
    for setting in track(SETTINGS):
        found = coverage(*setting)
        rows.append({**dict(zip(("shift", "members", "non_members"), setting, strict=True)), **found})
        table.add_row(*(str(value) for value in setting), *(f"{value:.3f}" for value in found.values()))
    Console().print(table)
    write_json(out, {"draws": DRAWS, "atoms": ATOMS, "resamples": RESAMPLES, "rows": rows})


if __name__ == "__main__":
    main()
