"""Predictions as files: a class map per image, where there is one, and one table."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from PIL import Image

from ..files import write_atomically
from ..lightning_state import run_folder
from ..pictures import class_colour

Row = dict[str, str | int | float]


class PredictionWriter(BasePredictionWriter):
    """Write what ``predict_step`` returns: a dict of ``id``, ``prediction`` and ``probability``.

    Each image becomes ``ID.png`` (2-D: an indexed PNG whose pixel values are classes, in colours) or
    ``ID.nii.gz`` (3-D: uint8 on the voxel grid the network saw, identity affine, since batches carry no
    spacing). Characters of an id that a file name cannot hold are written as ``%2F`` and the like.
    ``predictions.csv`` has one line per image, sorted by id: the file, predicted pixels of each foreground
    class, and the mean probability of each class over the image. A classifier, whose ``prediction`` is ``[B]``, gets
    the table alone, with class and probabilities of each image. Copies that pad a distributed batch
    (``counted`` False) are left out.

    Args:
        folder: where to; None = ``predictions`` in the folder of the run.
        probabilities: also write ``ID.npz`` with float16 ``probability`` ``[K, *spatial]``.

    Raises:
        MisconfigurationException: if ``predict_step`` returns something else.

    Example:
        >>> PredictionWriter(probabilities=True).interval.value
        'batch'
    """

    def __init__(self, folder: str | Path | None = None, probabilities: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.folder = None if folder is None else Path(folder)
        self.probabilities = probabilities
        self._to = Path()
        self._rows: list[Row] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder and start an empty table."""
        self._to = self.folder or run_folder(trainer) / "predictions"
        self._rows = []

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the images of a batch."""
        if not isinstance(prediction, Mapping) or not {"id", "prediction", "probability"} <= prediction.keys():
            raise MisconfigurationException(
                "PredictionWriter needs predict_step to return a dict with 'id' (B strings), 'prediction' "
                "[B, *spatial] or [B] and 'probability' [B, K, *spatial] or [B, K]; see SegmentationModule.predict_step"
            )
        counted = batch.get("counted") if isinstance(batch, Mapping) else None
        for i, name in enumerate(prediction["id"]):
            if counted is None or bool(counted[i]):
                classes = prediction["prediction"][i].to("cpu", torch.uint8).numpy()
                probability = prediction["probability"][i].float().cpu().numpy()
                self._rows.append(self._write(str(name), classes, probability))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one table from the lines of all processes."""
        shares: list[list[Row]] = [self._rows]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            shares = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, self._rows)
        rows = sorted((row for share in shares for row in share), key=lambda row: str(row["id"]))
        if rows and trainer.is_global_zero:
            write_atomically(self._to / "predictions.csv", lambda path: _write_table(path, rows))
            rank_zero_info(f"predictions: {self._to}")

    def _write(self, name: str, classes: NDArray[np.uint8], probability: NDArray[np.float32]) -> Row:
        num_classes = len(probability)
        if classes.ndim == 0:
            means = {f"probability_{k}": round(float(probability[k]), 6) for k in range(num_classes)}
            return {"id": name, "class": int(classes), **means}
        stem = quote(name, safe=" ")
        if classes.ndim == 2:
            file = f"{stem}.png"
            write_atomically(self._to / file, lambda path: _indexed(classes, num_classes).save(path))
        else:
            file = f"{stem}.nii.gz"
            image = nibabel.Nifti1Image(classes, np.eye(4))  # type: ignore[no-untyped-call]
            volume = gzip.compress(image.to_bytes(), mtime=0)
            write_atomically(self._to / file, lambda path: _write_bytes(path, volume))
        if self.probabilities:
            write_atomically(
                self._to / f"{stem}.npz",
                lambda path: np.savez_compressed(path, probability=probability.astype(np.float16)),
            )
        pixels = np.bincount(classes.ravel(), minlength=num_classes)
        means = probability.reshape(num_classes, -1).mean(1, dtype=np.float64)
        return {
            "id": name,
            "file": file,
            **{f"pixels_{k}": int(pixels[k]) for k in range(1, num_classes)},
            **{f"mean_probability_{k}": round(float(means[k]), 6) for k in range(num_classes)},
        }


def _indexed(classes: NDArray[np.uint8], num_classes: int) -> Image.Image:
    """An image whose pixel values are classes and whose palette makes them visible."""
    image = Image.fromarray(classes, mode="L").convert("P")
    colours = ["#000000", *(class_colour(k) for k in range(1, num_classes))]
    image.putpalette([int(colour[i : i + 2], 16) for colour in colours for i in (1, 3, 5)])
    return image


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
