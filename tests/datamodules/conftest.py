import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Finds a folder of real data, or skips the test."""
    root = Path(os.environ.get("ERODE_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"{root / name} is absent; set ERODE_DATA to the folder that holds {name}")
        return root / name

    return find


@pytest.fixture
def save() -> Callable[[Path, ArrayLike], Path]:
    """Writes an 8-bit picture and the folders above it."""

    def write(path: Path, array: ArrayLike) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array, np.uint8)).save(path)
        return path

    return write
