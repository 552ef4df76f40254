"""Trained models that are looked at: restored from files, and known to belong to the data's split."""

from __future__ import annotations

import copy
from pathlib import Path

from lightning.pytorch import LightningModule

from ..datamodules import MaskDataModule
from ..masks import ForgetSplit
from ..weights import load_weights


def restored(model: LightningModule, path: Path) -> LightningModule:
    """A copy of a module with the weights of a file, in evaluation mode."""
    copied = copy.deepcopy(model)
    load_weights(copied, path)
    return copied.eval()


def same_split(data: MaskDataModule, weights: Path) -> bool:
    """Whether a split stands beside the weights.

    Raises:
        ValueError: for one that is not the data's.
    """
    path = weights.parent / "split.json"
    if not path.exists():
        return False
    if ForgetSplit.load(path).digest != data.split.digest:
        raise ValueError(
            f"{path} is another split than the data's, so what {weights} was trained on is not what the data call "
            f"retained; give --data.split_file={path}"
        )
    return True
