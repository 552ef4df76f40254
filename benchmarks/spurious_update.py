"""Is `GlobalSpuriousInformation.update` bound by memory? Its throughput beside reading and copying the maps.

python benchmarks/spurious_update.py [--images 500] [--side 256] [--classes 4] [--device cpu] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from erode.metrics import GlobalSpuriousInformation


def best_seconds(calls: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Best of five rounds; rounds take turns, so that a busy machine is unfair to all alike."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(5):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def measure(images: int, side: int, classes: int, batch: int, device: torch.device) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    shape = (images, side, side)
    pred, mask = (torch.randint(classes, shape, generator=generator).to(device) for _ in range(2))
    artefact = (torch.rand(shape, generator=generator) < 0.2).to(torch.uint8).to(device)
    counted = torch.ones(images, dtype=torch.bool, device=device)
    maps: tuple[Tensor, ...] = (pred, mask, artefact)
    size = sum(values.numel() * values.element_size() for values in maps) / 1e9

    def update(**options: int) -> None:
        metric = GlobalSpuriousInformation(classes, **options).to(device)
        for start in range(0, images, batch):
            metric.update(*(values[start : start + batch] for values in (*maps, counted)))
        metric.counts.sum().item()

    def fused_int64() -> None:
        for start in range(0, images, batch):
            z, y, s = (values[start : start + batch] for values in maps)
            torch.bincount(((z * 2 + s) * classes + y).flatten(), minlength=2 * classes**2)

    rows: dict[str, Callable[[], object]] = {
        "read (sum)": lambda: [values.sum() for values in maps],
        "copy (clone)": lambda: [values.clone() for values in maps],
        "bincount of an int64 index": fused_int64,
        "update": update,
        "update, bootstrap": lambda: update(bootstrap=1),
        "update, permutations": lambda: update(permutations=1),
    }
    times = best_seconds(rows, device)
    read = times["read (sum)"]
    return [{"what": name, "seconds": t, "gb_per_s": size / t, "of_read": read / t} for name, t in times.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(options.images, options.side, options.classes, options.batch, options.device)
    print(f"{options.images} images of {options.side}², {options.classes} classes, {options.device}")
    print(f"{'':28}{'seconds':>10}{'GB/s':>8}{'of read':>9}")
    for row in rows:
        print(f"{row['what']:28}{row['seconds']:10.4f}{row['gb_per_s']:8.2f}{row['of_read']:9.2f}")
    if options.out:
        settings = {key: str(value) for key, value in vars(options).items() if key != "out"}
        options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
