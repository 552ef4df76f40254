"""Pictures, and a network trained on the command line."""

import sys

import numpy as np
import pytest
from cli_runs import USUAL
from PIL import Image

from erode.cli import main


@pytest.fixture(scope="package", autouse=True)
def _no_command_line():
    """Lightning warns where a program's own arguments and those of main() differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["erode"])
        yield


@pytest.fixture(scope="package")
def pictures(tmp_path_factory):
    """Twenty pictures of a bright square with a one-pixel frame of glare, and their fine masks."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for number in range(20):
        mask = np.zeros((32, 32), np.uint8)
        row, column = rng.integers(6, 16, 2)
        mask[row : row + 9, column : column + 7] = 255
        image = np.clip(rng.normal(80, 20, (32, 32, 3)) + mask[..., None] / 3, 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"scan {number}.png")
        Image.fromarray(mask).save(root / "masks" / f"scan {number}.png")
    return root


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """The folder of a short training run."""
    folder = tmp_path_factory.mktemp("trained") / "fit"
    main(["fit", *USUAL, f"--trainer.default_root_dir={folder}"])
    return folder


@pytest.fixture(scope="package")
def weights(trained):
    return str(trained / "weights.safetensors")
