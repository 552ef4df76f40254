"""One ladder from one command: every rung measured and trained, resumed where it stopped, in figure and tables."""

import csv
import json

import pytest
from monai.transforms import RandZoomd

from erode.cli import main
from erode.datamodules import SaabSynthetic
from erode.lightning_modules import ImageClassifier
from erode.masks import SpecificityWindow
from erode.objectives import ERM, GroupDRO, JustTrainTwice
from erode.protocols.ladder import ladder
from erode.protocols.ladder.figure import ladder_figure
from erode.protocols.ladder.report import markdown_of
from erode.protocols.ladder.rungs import rungs

DATA = {"train_images": 16, "val_images": 2, "test_images": 8, "flips": False, "batch_size": 8}
ARGUMENTS = [
    "--data=SaabSynthetic", *(f"--data.{key}={str(value).lower()}" for key, value in DATA.items()), "--windows=[4]",
    "--half_widths=[2]", "--steps=2", "--bootstrap=50", "--accelerator=cpu",
]  # fmt: skip
NAMES = ["image", "window-4", "dilated-2", "exact"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder") / "out"
    main(["ladder", *ARGUMENTS, "--seeds=[0]", f"--out={folder}"])
    return folder


def test_every_rung_is_measured_and_trained(out):
    whole = json.loads((out / "ladder.json").read_text())
    assert [content["rung"] for content in whole["labels"]] == NAMES
    tightness = [content["tightness"] for content in whole["labels"]]
    assert tightness == sorted(tightness)
    assert tightness[-1] == 1
    for content in whole["labels"]:
        assert content["information"] == pytest.approx(content["closed_form"], abs=1e-12)
    image, *pixels = whole["rows"]
    assert "dice_lesion" not in image["metrics"]
    assert image["metrics"]["auroc_robust"] is not None
    assert all(0 <= row["metrics"]["dice_lesion"] <= 1 for row in pixels)


def test_tables_hold_what_was_found(out):
    whole = json.loads((out / "ladder.json").read_text())
    lines = list(csv.DictReader((out / "ladder.csv").read_text().splitlines()))
    assert [line["rung"] for line in lines] == NAMES
    for line, content in zip(lines, whole["labels"], strict=True):
        assert float(line["tightness"]) == pytest.approx(content["tightness"])
    text = (out / "ladder.md").read_text()
    assert text == markdown_of(whole["labels"], whole["rows"], "test")
    assert text.startswith("AUROC and Dice: test part")
    assert len(text.splitlines()) == 4 + len(NAMES)
    assert f"{1e3 * whole['labels'][1]['information']:.2f} [" in text


def test_the_figure_shows_both_and_names_their_units(out):
    assert (out / "ladder.png").stat().st_size > 10_000
    whole = json.loads((out / "ladder.json").read_text())
    above, below = ladder_figure(whole["labels"], whole["rows"], "data").axes
    assert "nats" in above.get_ylabel()
    curves = [text.get_text() for text in below.get_legend().get_texts()]
    assert curves[:2] == ["robust AUROC", "robust AUROC in foreground"]
    assert "worst pair" in curves[2]
    assert below.get_ylabel().startswith("test part")
    unknown = [{**content, "information": None} for content in whole["labels"]]
    above, _ = ladder_figure(unknown, whole["rows"], "data").axes
    assert "per\nunit of artefact share" in above.get_ylabel()
    assert len(ladder_figure(whole["labels"], [], "data").axes) == 1


def test_labels_alone_have_a_line_each(tmp_path):
    main(["ladder", *ARGUMENTS, "--seeds=[]", f"--out={tmp_path / 'labels'}"])
    lines = list(csv.DictReader((tmp_path / "labels" / "ladder.csv").read_text().splitlines()))
    assert [line["rung"] for line in lines] == NAMES


def test_labels_are_measured_on_images_that_no_transform_changed(tmp_path):
    keys = ["image", "mask", "coarse", "role", "prior", "artefact"]
    zoom = RandZoomd(keys, prob=1.0, min_zoom=0.5, max_zoom=3.0, mode=["bilinear", *["nearest"] * 5])
    found = []
    for name, transform in {"plain": None, "zoomed": zoom}.items():
        data = SaabSynthetic(**DATA, transform=transform)
        ladder(data, out=tmp_path / name, windows=[4], half_widths=[2], seeds=(), bootstrap=10, accelerator="cpu")
        found.append(json.loads((tmp_path / name / "ladder.json").read_text())["labels"])
    assert found[0] == found[1]


def test_it_goes_on_where_it_stopped_and_takes_more_seeds(out):
    (out / "rows" / "exact-seed0.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (*out.glob("rows/*"), *out.glob("labels/*"))}
    main(["ladder", *ARGUMENTS, "--seeds=[0]", f"--out={out}"])
    assert (out / "rows" / "exact-seed0.json").exists()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    with pytest.raises(ValueError, match="holds a ladder with other settings"):
        main(["ladder", *ARGUMENTS, "--steps=3", f"--out={out}"])


def test_image_labels_are_also_learnt_by_objectives_made_for_shortcuts(tmp_path):
    """Three classifiers of one kind of label; each by its own objective, on a run of its own."""
    seen = {}

    class Noting(ImageClassifier):
        def on_train_end(self):
            seen[len(seen)] = (type(self.objective), getattr(self.objective, "first_steps", None))

    data = SaabSynthetic(**DATA)
    ladder(
        data, classifier=lambda: Noting(num_classes=2, in_channels=1), out=tmp_path, windows=[], half_widths=[],
        objectives=["group_dro", "jtt"], steps=5, bootstrap=20, accelerator="cpu",
    )  # fmt: skip
    assert list(seen.values()) == [(ERM, None), (GroupDRO, None), (JustTrainTwice, 1)]
    whole = json.loads((tmp_path / "ladder.json").read_text())
    assert [content["rung"] for content in whole["labels"]] == ["image", "image-group_dro", "image-jtt", "exact"]
    assert len({content["information"] for content in whole["labels"][:3]}) == 1
    assert "image label, GroupDRO" in (tmp_path / "ladder.md").read_text()


def test_rungs_and_refusals(tmp_path):
    assert [rung.name for rung in rungs([2], True, [1.5])] == ["image", "window-2", "box", "dilated-1.5", "exact"]
    data = SaabSynthetic(split_file=tmp_path / "split.json")
    with pytest.raises(ValueError, match="made anew"):
        data.recoarsen(SpecificityWindow(2))
    with pytest.raises(ValueError, match="made anew"):
        ladder(data, out=tmp_path / "out")
