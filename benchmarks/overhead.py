"""What the noisy phase costs beside plain SGD: time of a step and memory, with Opacus' clipping for scale.

``python benchmarks/overhead.py --out overhead.json`` (``--device cuda --precision bf16-mixed`` on a GPU) trains one
UNet in one process under several Trainers that take turns, A B B A, so that a busy machine is unfair to all alike.
Each round gives one ratio to plain SGD; shown are their median and its distribution-free 95 % interval. "plain SGD
again" is the control: what it shows beside 1 is the error of the measurement. On the CPU the ratio of processor
seconds, which other processes on the machine disturb less, stands beside that of the clock. Opacus, if installed
(``pip install "erode[benchmarks]"``), runs in the plain loop of its own tutorials.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from overhead_lanes import Lane, LightningLane, OpacusLane, Setting, opacus_training, trainer_for
from overhead_memory import peak_bytes
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binom

from erode.callbacks import GradientClipping, ModelClipping
from erode.callbacks.bases.noisy_phase import NoisyPhase

STEPS = 5000
"""Certified steps: more than are ever taken here."""

SIGMA = 1e-5
"""Noise of a step: costs what any noise costs, and is not refused for what rounding does to weights so far away."""


def gradient_clipping(steps: int, folder: Path) -> NoisyPhase:
    return GradientClipping(epsilon=None, sigma=SIGMA, radius=1.0, steps=steps, folder=folder)


def gradient_clipping_with_decay(steps: int, folder: Path) -> NoisyPhase:
    return GradientClipping(epsilon=None, sigma=SIGMA, radius=1.0, weight_decay=1.0, steps=steps, folder=folder)


def model_clipping(steps: int, folder: Path) -> NoisyPhase:
    return ModelClipping(epsilon=None, sigma=SIGMA, radius=1.0, steps=steps, folder=folder)


Operator = Callable[[int, Path], NoisyPhase]

OURS: dict[str, Operator | None] = {
    "plain SGD again": None,
    "GradientClipping": gradient_clipping,
    "GradientClipping, with decay": gradient_clipping_with_decay,
    "ModelClipping": model_clipping,
}
OPACUS = {"Opacus, per-sample gradients": "hooks", "Opacus, ghost clipping": "ghost"}


def ratios(plain: Lane, other: Lane, rounds: int, steps: int, what: str) -> dict[str, list[float]]:
    """One ratio of each kind per round of A B B A."""
    found: dict[str, list[float]] = {"wall": [], "cpu": [], "update": [], "seconds": []}
    for _ in track(range(rounds), what, transient=True):
        first, one, two, last = (lane.block(steps) for lane in (plain, other, other, plain))
        base, ours = first + last, one + two
        found["wall"].append(ours.wall / base.wall)
        found["cpu"].append(ours.cpu / base.cpu)
        found["update"].append((ours.update - base.update) / base.cpu)
        found["seconds"].append(ours.wall / (2 * steps))
    return found


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median and the order statistics that hold it with at least 95 % probability, whatever the distribution."""
    ordered, n = sorted(values), len(values)
    out = int(binom.ppf(0.025, n, 0.5))
    low = max(0, out - 1)
    return statistics.median(ordered), ordered[low], ordered[n - 1 - low]


def time_row(name: str, found: dict[str, list[float]], lane: Lane) -> dict[str, Any]:
    row: dict[str, Any] = {"what": name, "rounds": len(found["wall"])}
    for kind in ("wall", "cpu"):
        row[f"{kind}_ratio"], row[f"{kind}_low"], row[f"{kind}_high"] = median_interval(found[kind])
    row["update_share"] = statistics.median(found["update"]) if isinstance(lane, LightningLane) else None
    row["seconds_per_step"] = statistics.median(found["seconds"])
    return row


def measure_time(
    setting: Setting, rounds: int, block: int, only: list[str], opacus: bool, folder: Path
) -> list[dict[str, Any]]:
    plain = LightningLane(setting, None, STEPS, folder)
    rows = []
    lanes: dict[str, Callable[[], Lane]] = {
        name: partial(LightningLane, setting, None if make is None else make(STEPS, folder / name), STEPS, folder)
        for name, make in OURS.items()
        if name in only
    }
    if opacus:
        lanes |= {name: partial(OpacusLane, setting, mode) for name, mode in OPACUS.items()}
    for name, make_lane in lanes.items():
        lane = make_lane()
        lane.block(2)
        plain.block(1)
        # Opacus is there for scale, and slow.
        found = ratios(plain, lane, max(3, rounds // 4) if name in OPACUS else rounds, block, name)
        rows.append(time_row(name, found, lane))
        lane.close()
    plain.close()
    return rows


def measure_memory(setting: Setting, opacus: bool, folder: Path) -> list[dict[str, Any]]:
    """Peak of a whole fit of three steps, beyond the same fit with plain SGD, in copies of the parameters."""
    copy = sum(p.numel() * p.element_size() for p in setting.network().parameters())

    def fit(name: str, make: Operator | None) -> None:
        operator = None if make is None else make(3, folder / f"memory {setting.side} {name}")
        trainer, module, loader = trainer_for(setting, operator, 3, folder)
        trainer.fit(module, loader)

    runs: dict[str, Callable[[], Any]] = {"plain SGD": partial(fit, "plain SGD", None)}
    runs |= {name: partial(fit, name, make) for name, make in OURS.items() if make}
    if opacus:
        runs |= {name: partial(opacus_training, setting, mode, 3) for name, mode in OPACUS.items()}
    peaks = {name: peak_bytes(run, setting.device) for name, run in runs.items()}
    return [
        {"what": name, "side": setting.side, "batch": setting.batch, "peak_bytes": peak,
         "extra_copies": (peak - peaks["plain SGD"]) / copy}
        for name, peak in peaks.items()
    ]  # fmt: skip


def show(rows: list[dict[str, Any]], memory: list[dict[str, Any]], title: str, small: Setting) -> Table:
    result = Table(title=title)
    for heading in ("", "ratio of\nwall time", "95 %", "ratio of\nCPU time", "95 %", "extra in\nthe update",
                    "s / step", "extra memory\n(copies)", f"at {small.side}²,\nbatch {small.batch}"):  # fmt: skip
        result.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        extra = [f"{m['extra_copies']:.2f}" for m in memory if m["what"] == row["what"]] or ["–", "–"]
        result.add_row(
            row["what"],
            f"{row['wall_ratio']:.3f}", f"{row['wall_low']:.3f} – {row['wall_high']:.3f}",
            f"{row['cpu_ratio']:.3f}", f"{row['cpu_low']:.3f} – {row['cpu_high']:.3f}",
            "–" if row["update_share"] is None else f"{row['update_share']:+.2%}",
            f"{row['seconds_per_step']:.3f}", *extra,
        )  # fmt: skip
    return result


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", default="32-true", help="32-true or bf16-mixed")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--block", type=int, help="steps per turn; default 1, on a GPU 20")
    parser.add_argument("--only", nargs="+", default=list(OURS), choices=list(OURS), help="rows of ours to measure")
    parser.add_argument("--no-opacus", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    setting = Setting(options.device, options.precision, options.side, options.batch, tuple(options.channels))
    small = setting._replace(side=32, batch=1)
    block = options.block or (20 if options.device.type == "cuda" else 1)
    opacus = not options.no_opacus
    with tempfile.TemporaryDirectory() as folder:
        memory = []
        if not options.no_memory:
            memory = [row for s in (setting, small) for row in measure_memory(s, opacus, Path(folder))]
        rows = measure_time(setting, options.rounds, block, options.only, opacus, Path(folder))
    d = sum(p.numel() for p in setting.network().parameters())
    work = f"UNet of {d / 1e6:.2f} M, {setting.side}² × {setting.batch}"
    title = f"{device_name(options.device)}, {options.precision}, {work}"
    Console(width=130).print(show(rows, memory, title, small))
    if options.out:
        settings = {key: str(value) for key, value in vars(options).items() if key != "out"}
        content = {"device": device_name(options.device), "torch": torch.__version__, "parameters": d,
                   "date": time.strftime("%Y-%m-%d"), "settings": settings, "time": rows, "memory": memory}  # fmt: skip
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
