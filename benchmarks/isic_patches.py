"""Patches of ISIC 2017, half at the edge of a lesion, half of bare skin: real images in which a lesion is there or not.

python benchmarks/isic_patches.py [--root data/isic2017] [--out runs/isic-patches] [--seed 0]

Every image gives one patch of which the lesion covers 5 to 30 %, at a random place, and one that shows none of it, so
whatever else the image shows (rulers, hair, its camera) says nothing of the lesion. Images with dark corners and
without flags are left out: their corners would tell bare skin.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
"""Side of a patch in pixels; images have 256."""
COVERED = (0.05, 0.3)
"""Share of a patch that the lesion covers, where it shows one."""

Corner = tuple[int, int]


def corners(mask: NDArray[np.bool_], rng: Generator) -> tuple[Corner, Corner] | None:
    """Upper left corners of a patch that shows the lesion and of one that does not; None = no such pair."""
    sums = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    covered = (sums[SIDE:, SIDE:] - sums[:-SIDE, SIDE:] - sums[SIDE:, :-SIDE] + sums[:-SIDE, :-SIDE]) / SIDE**2
    least, most = COVERED
    lesion, skin = (np.argwhere(where) for where in ((covered >= least) & (covered <= most), covered == 0))
    if not len(lesion) or not len(skin):
        return None
    shown, bare = rng.choice(lesion), rng.choice(skin)
    return (int(shown[0]), int(shown[1])), (int(bare[0]), int(bare[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/isic2017"))
    parser.add_argument("--out", type=Path, default=Path("runs/isic-patches"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = default_rng(args.seed)
    for folder in ("images", "masks"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(args.root / "metadata.csv").sort_values("image_id")
    rows = []
    for case in table[(table.artefacts_annotated == 1) & (table.dark_corner == 0)].itertuples():
        mask = Image.open(args.root / str(case.mask)).convert("L").point(lambda value: 255 * (value > 127))
        found = corners(np.asarray(mask) > 0, rng)
        if found is None:
            continue
        image = Image.open(args.root / str(case.image)).convert("RGB")
        for name, (top, left) in zip(("lesion", "skin"), found, strict=True):
            id, box = f"{case.image_id}_{name}", (left, top, left + SIDE, top + SIDE)
            image.crop(box).save(args.out / "images" / f"{id}.png")
            mask.crop(box).save(args.out / "masks" / f"{id}.png")
            rows.append({"id": id, "label": int(name == "lesion"), "source": case.image_id})
    pd.DataFrame(rows).to_csv(args.out / "table.csv", index=False)
    print(f"{len(rows) // 2} images of {len(table)} gave {len(rows)} patches in {args.out}")


if __name__ == "__main__":
    main()
