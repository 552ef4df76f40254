"""Predicted files hold exactly what was predicted."""

import csv

import lightning.pytorch as pl
import nibabel
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch.utils.data import DataLoader

from erode.callbacks.prediction_writer import PredictionWriter


class TheirModule(pl.LightningModule):
    """Three classes from fixed logits, in the form SegmentationModule returns them."""

    def predict_step(self, batch, index):
        probability = batch["image"].softmax(1)
        return {"id": batch["id"], "prediction": probability.argmax(1), "probability": probability}


def items(spatial=(6, 5)):
    generator = torch.Generator().manual_seed(0)
    ids = ["b", "a/1", "ÄÖ ü"]
    images = 3 * torch.randn(3, 3, *spatial, generator=generator)
    return [{"id": name, "image": image} for name, image in zip(ids, images, strict=True)]


def predict(writer, data, module=None):
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[writer],
        enable_progress_bar=False,
        barebones=False,
    )
    trainer.predict(module or TheirModule(), DataLoader(data, 2), return_predictions=False)


def table(folder):
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("spatial", [(6, 5), (4, 6, 5)])
def test_files_and_table_hold_the_predictions(tmp_path, spatial):
    data = items(spatial)
    predict(PredictionWriter(tmp_path, probabilities=True), data)
    rows = {row["id"]: row for row in table(tmp_path)}
    assert list(rows) == sorted(item["id"] for item in data)
    for item in data:
        row = rows[item["id"]]
        probability = item["image"].softmax(0)
        classes = probability.argmax(0).numpy()
        path = tmp_path / row["file"]
        assert path.parent == tmp_path
        written = np.asarray(Image.open(path)) if len(spatial) == 2 else nibabel.load(path).get_fdata()
        assert np.array_equal(written, classes)
        for k in range(3):
            expected = probability[k].double().mean().item()
            assert float(row[f"mean_probability_{k}"]) == pytest.approx(expected, abs=1e-6)
        assert [int(row[f"pixels_{k}"]) for k in (1, 2)] == [(classes == k).sum() for k in (1, 2)]
        stem = row["file"].split(".")[0]
        with np.load(tmp_path / f"{stem}.npz") as archive:
            assert np.abs(archive["probability"] - probability.numpy()).max() < 1e-3


def test_copies_are_not_written(tmp_path):
    data = [{**item, "counted": torch.tensor(item["id"] != "b")} for item in items()]
    predict(PredictionWriter(tmp_path), data)
    assert [row["id"] for row in table(tmp_path)] == ["a/1", "ÄÖ ü"]
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_other_predictions_are_refused(tmp_path):
    class Bare(TheirModule):
        def predict_step(self, batch, index):
            return batch["image"].argmax(1)

    with pytest.raises(MisconfigurationException, match="predict_step"):
        predict(PredictionWriter(tmp_path), items(), Bare())
