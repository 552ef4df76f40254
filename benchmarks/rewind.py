"""What an exact answer costs by rewinding: seconds to find, prove and restore, against reading one file.

``python benchmarks/rewind.py --out rewind.json`` writes checkpoints of growing networks with ledgers over growing data
sets, asks to forget the last images, and checks that what comes back are the stored bits. Shown are seconds of the
clock and of all processors, the least of some repetitions: other processes on the machine disturb the second less, but
part of the work is done at the same time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks.nets import UNet
from rich.console import Console
from rich.progress import track
from rich.table import Table

from erode.requests import ForgetRequest, find_unexposed
from erode.requests.ledger import CHECKPOINT_KEY, Exposure, Ledger, Level
from erode.weights import read_state, state_digest

WIDTHS = {"0.05 M": (8, 16, 32, 64), "3 M": (64, 128, 256, 512), "26 M": (192, 384, 768, 1536)}
CHECKPOINTS, IMAGES = [1, 10, 50], 2000

Row = dict[str, str | float | bool]


def write(folder: Path, widths: tuple[int, ...], checkpoints: int) -> None:
    """Checkpoints of one run; each has seen as many more images, the last one half of them."""
    state = UNet(2, 3, 3, channels=widths, strides=(2, 2, 2), num_res_units=1).state_dict()
    for number in range(checkpoints):
        seen = {f"image {i}": Level.FORGET for i in range(IMAGES * (number + 1) // (2 * checkpoints))}
        ledger = Ledger(state_digest(state), dict.fromkeys(state, Exposure(seen)), steps=number)
        torch.save({"state_dict": state, CHECKPOINT_KEY: ledger.text}, folder / f"{number:03d}.ckpt")


def seconds(what: str, work: Callable[[], object], repetitions: int) -> Row:
    """The least of some, of the clock and of the processors."""
    walls, processors = [], []
    for _ in range(repetitions):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        processors.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return {what: min(walls), f"{what}, CPU": min(processors)}


def measure(name: str, checkpoints: int, repetitions: int) -> Row:
    """One network, one number of checkpoints."""
    data = [f"image {i}" for i in range(IMAGES)]
    request = ForgetRequest.of(data[IMAGES // 2 :])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, WIDTHS[name], checkpoints)
        last = folder / f"{checkpoints - 1:03d}.ckpt"
        found = find_unexposed(folder, request, known=data)
        return {
            "parameters": name,
            "checkpoints": checkpoints,
            **seconds("read one file", lambda: state_digest(read_state(last)), repetitions),
            **seconds("rewind", lambda: find_unexposed(folder, request, known=data), repetitions),
            "bits equal": found.path == last and state_digest(found.state) == state_digest(read_state(last)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--checkpoints", type=int, nargs="+", default=CHECKPOINTS, help="how many in a folder")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    rows = [measure(name, n, options.repetitions) for name in track(WIDTHS) for n in options.checkpoints]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
