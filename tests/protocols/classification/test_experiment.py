"""The verb as people run it: every arm, resumed where it stopped, and never mixed with another experiment."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from erode.cli import main
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import ImageClassifier, SegmentationModule
from erode.objectives import JustTrainTwice
from erode.protocols.classification import classify
from erode.protocols.classification.subsets import labelled_ids

torch.set_num_threads(1)

SMALL = {"size": 32, "train_images": 20, "val_images": 8, "test_images": 10, "batch_size": 4}
OPTIONS = ["--fractions=[0.5,1.0]", "--seeds=[0]", "--steps=4", "--validations=2", "--accelerator=cpu"]


def command(out, *more):
    main(
        [
            "classify",
            "--data=SyntheticDermoscopy",
            *(f"--data.{k}={v}" for k, v in SMALL.items()),
            *OPTIONS,
            f"--out={out}",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("classification") / "out"
    command(out)
    return out


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def rows(out):
    return json.loads((out / "classification.json").read_text())["rows"]


def test_every_arm_stands_in_every_file(finished):
    found = {(row["arm"], row["fraction"]) for row in rows(finished)}
    labelled = {(arm, fraction) for arm in ("segmentation", "classifier") for fraction in (0.5, 1.0)}
    assert found == labelled | {("semi", 0.5), ("semi_filtered", 0.5)}  # with all masks there is nothing to predict
    page = (finished / "classification.md").read_text()
    for row in rows(finished):
        assert row["title"] in page
    with (finished / "classification.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows(finished))
    with (finished / "subgroups.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["subgroup"] for line in lines} >= {"all", "hair", "no hair", "small lesions"}
    assert all(float(line["recall_low"]) <= float(line["recall_value"]) <= float(line["recall_high"])
               for line in lines if line["recall_value"])  # fmt: skip
    assert (finished / "classification.png").stat().st_size > 10_000


def test_rows_say_what_they_learnt_from(finished):
    by_arm = {row["arm"]: row for row in rows(finished) if row["fraction"] == 0.5}
    assert {row["images"] for row in by_arm.values()} == {10}
    assert by_arm["semi"]["pseudo"]["predicted"] == 10
    assert by_arm["semi_filtered"]["pseudo"]["kept"] <= by_arm["semi"]["pseudo"]["kept"]
    assert by_arm["segmentation"]["rule"]["chosen on"] == "val"
    assert by_arm["classifier"]["rule"]["thresholds"] is None
    assert by_arm["classifier"]["metrics"]["dice_lesion"] is None


def test_a_lost_row_is_computed_again_and_no_other(copy):
    lost = copy / "rows" / "segmentation-0.5-seed0.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (copy / "rows").iterdir()}
    command(copy)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    after = json.loads(lost.read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


def test_other_settings_are_refused(copy):
    with pytest.raises(ValueError, match=r"other settings .* asked for\); nothing is overwritten"):
        command(copy, "--steps=5")


def test_what_cannot_work_is_refused_before_training():
    data = SyntheticDermoscopy(**SMALL)
    with pytest.raises(ValueError, match="put 'segmentation' before it"):
        classify(data, arms=["semi"])
    with pytest.raises(ValueError, match="same positive_class"):
        classify(data, lambda: SegmentationModule(num_classes=3, positive_class=1))
    with pytest.raises(ValueError, match="trains twice"):
        classify(data, classifier=lambda: ImageClassifier(num_classes=3, objective=JustTrainTwice(first_steps=2)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        classify(data, fractions=[1.5])
    assert not Path("runs").exists()


def test_the_data_of_the_caller_serve_what_they_served(tmp_path):
    data = SyntheticDermoscopy(**SMALL)
    before = data.view, data.split.digest, labelled_ids(data, 0.5, 0)
    classify(
        data, out=tmp_path / "out", fractions=[1.0], arms=["segmentation"], steps=1, validations=1, accelerator="cpu"
    )
    assert (data.view, data.split.digest, labelled_ids(data, 0.5, 0)) == before
