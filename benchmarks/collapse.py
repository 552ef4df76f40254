"""Does certification cost the model? Certified runs against exact retraining, from 52 thousand to 8 million parameters.

``python benchmarks/collapse.py --data synthetic --out runs/collapse`` trains, for each size of MONAI's ``UNet``, the
coarse model, the exact retain view, gradient clipping at (ε = 1, δ = 1e-7), and two controls: the same noise on a start
that was never trained, and, as published runs do it, a large radius without the shrink after the noise. Every row takes
the same number of gradient steps. It goes on where it stopped; finished sizes print their table again.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from monai.networks.nets import UNet

from erode.callbacks import GradientClipping
from erode.comparison import METHODS, Method, MethodName, compare
from erode.datamodules import ISICDataModule, MaskDataModule, SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.masks import DiskDilation, View

SIZES: dict[str, tuple[tuple[int, ...], int]] = {
    "52k": ((8, 16, 32, 64), 1),
    "1.6M": ((16, 32, 64, 128, 256), 2),
    "8M": ((18, 36, 72, 144, 288, 576), 2),
}
"""Channels and residual units of each network."""

LARGE_RADIUS = 10.0
"""C0 of the order of a trained network's norm."""


def large_radius(title: str, shrink: bool) -> Method:
    """Gradient clipping with a radius that keeps all of the trained weights."""
    return Method(
        title,
        title,
        View.RETAIN,
        lambda task: GradientClipping(radius=LARGE_RADIUS, learning_rate=1.0, shrink=shrink, folder=task.folder),
        start="coarse",
    )


LARGE_RADII = {
    "large_radius": large_radius("certified, C0 = 10", shrink=True),
    "large_radius_unshrunk": large_radius("certified, C0 = 10, no shrink", shrink=False),
}
ROWS = ("coarse", "retain_view", "gradient_clipping", "same_noise", "large_radius", "large_radius_unshrunk")


def network(size: str) -> SegmentationModule:
    """A fresh module of one size."""
    channels, units = SIZES[size]
    return SegmentationModule(
        UNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=3,
            channels=channels,
            strides=(2,) * (len(channels) - 1),
            num_res_units=units,
        ),
        num_classes=3,
        class_names=["background", "benign", "malignant"],
    )


def data(name: str, root: Path) -> MaskDataModule:
    """Masks dilated by 8 pixels of 64, 10 % of them fine."""
    common: dict[str, Any] = {"coarsening": DiskDilation(half_width=8), "fine_fraction": 0.1}
    if name == "synthetic":
        return SyntheticDermoscopy(**common)
    return ISICDataModule(root=root, size=64, task="multiclass", flag="ruler", **common)


def main() -> None:
    parser = argparse.ArgumentParser(description="certified runs against exact retraining, by size")
    parser.add_argument("--data", choices=("synthetic", "isic"), default="synthetic")
    parser.add_argument("--root", type=Path, default=Path("data/isic2017"))
    parser.add_argument("--out", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    arguments = parser.parse_args()
    METHODS.update(cast("dict[MethodName, Method]", LARGE_RADII))
    for size in arguments.sizes:
        print(f"{arguments.data}, {size}")
        compare(
            data(arguments.data, arguments.root),
            cast(Callable[[], SegmentationModule], functools.partial(network, size)),
            out=arguments.out / f"{arguments.data}-{size}",
            steps=arguments.steps,
            seeds=arguments.seeds,
            methods=arguments.rows,
            accelerator="cpu",
        )


if __name__ == "__main__":
    main()
