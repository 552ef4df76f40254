"""The picture of docs/data.md: every kind of overlay on cartoon skin, with the artefact mask it brings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
from matplotlib.figure import Figure

from erode.datamodules import Overlay, SyntheticDermoscopy
from erode.datamodules.overlay import OverlayName
from erode.pictures import save_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("overlays.png"))
    kinds = get_args(OverlayName)
    figure = Figure(figsize=(1.5 * len(kinds), 3.3), layout="constrained")
    for column, (kind, axes) in enumerate(zip(kinds, figure.subplots(2, len(kinds)).T, strict=True)):
        overlay = Overlay({"benign lesion": 1.0, "malignant lesion": 1.0}, kinds=[kind])
        data = SyntheticDermoscopy(size=128, train_correlation=1.0, hair_rate=0.0, overlay=overlay)
        bare = [case for case in data.part("train") if not case.flags["any"]]
        arrays = data.pixels(bare[column])
        axes[0].imshow(np.moveaxis(arrays.image, 0, -1))
        axes[1].imshow(np.where(arrays.artefact > 0, 2, arrays.mask > 0), cmap="magma", vmin=0, vmax=2)
        axes[0].set_title(kind.replace("_", " "), fontsize=9)
        for axis in axes:
            axis.set_axis_off()
    save_figure(figure, parser.parse_args().out)


if __name__ == "__main__":
    main()
