"""Networks that nobody chose fit the data: channels and dimensions too, and nothing else changes."""

import json

import numpy as np
import pytest
import torch

from erode.comparison import compare, settings_of
from erode.comparison.networks import fitting
from erode.datamodules import Arrays, Case, SaabSynthetic, SyntheticDermoscopy
from erode.datamodules.base import MaskDataModule
from erode.lightning_modules import ImageClassifier, SegmentationModule
from erode.lightning_modules.fresh import describe_fresh
from erode.masks import DiskDilation
from erode.protocols.classification import classify
from erode.protocols.ladder import ladder

torch.set_num_threads(1)


class Volumes(MaskDataModule):
    """Grey volumes with a cube each, and an artefact in every other one."""

    class_names = ("background", "cube")

    def cases(self):
        parts = [("train", 8), ("val", 4), ("test", 4)]
        return [Case(f"{part}{i}", i // 2 % 2, part, {"any": i % 2}) for part, count in parts for i in range(count)]

    def read(self, case):
        mask = np.zeros((32, 32, 32), np.int64)
        mask[8:18, 10:20, 12:22] = case.label
        artefact = np.zeros((32, 32, 32), np.uint8)
        artefact[:6, :6] = case.flags["any"]
        return Arrays(mask[None].astype(np.float32), mask=mask, artefact=artefact)


def volumes():
    return Volumes(coarsening=DiskDilation(1), batch_size=4, fine_fraction=0.3)


SOURCES = {
    "volumes": volumes,
    "grey": lambda: SaabSynthetic(train_images=16, val_images=8, test_images=8, prevalence=0.5, batch_size=4),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", [SegmentationModule, ImageClassifier])
def test_default_networks_take_an_image_of_the_data(source, kind):
    data = SOURCES[source]()
    image = data.dataset("val")[0]["image"][None]
    assert torch.isfinite(kind(**fitting(data)).eval()(image)).all()


def test_the_default_network_of_colour_images_is_the_one_it_was():
    data = SyntheticDermoscopy(size=32, train_images=4, val_images=2, test_images=2)
    asked = {"steps": 1, "evaluate_on": "test", "precision": "32-true", "epsilon": 1, "delta": 1e-7, "validations": 0}
    before = describe_fresh(lambda: SegmentationModule(class_names=data.class_names, num_classes=data.num_classes))
    assert settings_of(data, None, **asked)["model"] == before


@pytest.mark.parametrize("source", SOURCES)
def test_a_comparison_without_a_model_runs_on_any_data(source, tmp_path):
    compare(SOURCES[source](), out=tmp_path / "out", steps=1, methods=["coarse"], accelerator="cpu")
    (row,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert 0 <= row["metrics"]["dice_lesion"] <= 1


@pytest.mark.parametrize("source", SOURCES)
def test_so_does_a_classification(source, tmp_path):
    classify(
        SOURCES[source](), out=tmp_path / "out", fractions=[1.0], arms=["segmentation", "classifier"], steps=1,
        validations=1, accelerator="cpu",
    )  # fmt: skip
    rows = json.loads((tmp_path / "out" / "classification.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == ["segmentation", "classifier"]


def test_so_does_a_ladder(tmp_path):
    ladder(
        volumes(), out=tmp_path / "out", windows=[], box=False, half_widths=[1], objectives=[], seeds=[0], steps=1,
        bootstrap=10, accelerator="cpu",
    )  # fmt: skip
    rows = json.loads((tmp_path / "out" / "ladder.json").read_text())["rows"]
    assert {row["rung"] for row in rows} >= {"image", "dilated-1"}
