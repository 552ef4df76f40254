"""One trap set from one command: every row, resumed where it stopped, refused before training where it cannot work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from erode.cli import main
from erode.comparison import compare
from erode.datamodules import SaabSynthetic, SyntheticDermoscopy
from erode.lightning_modules import ImageClassifier
from erode.masks import SpecificityWindow
from erode.protocols.traps import traps
from erode.protocols.traps.baselines import BASELINES, artefacts_to_hide, check_baselines
from erode.protocols.traps.figure import traps_figure
from erode.protocols.traps.report import markdown_of

torch.set_num_threads(1)

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL = {"train_images": 20, "val_images": 4, "test_images": 16, "batch_size": 8}
ARGUMENTS = [
    f"--config={BENCHMARKS / 'traps_saab.yaml'}", *(f"--data.{key}={value}" for key, value in SMALL.items()),
    "--methods=[coarse,oracle,fine_tune]", "--steps=3",
]  # fmt: skip
NAMES = ["coarse", "oracle", "fine_tune", "classifier"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """As people run it: a process of its own, a packaged configuration, and its output."""
    out = tmp_path_factory.mktemp("traps") / "out"
    command = [sys.executable, "-m", "erode", "traps", *ARGUMENTS, "--seeds=[0,1]", f"--out={out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out.parent, env=environment)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


def test_every_row_stands_in_every_file(finished):
    out, printed = finished
    whole = json.loads((out / "traps.json").read_text())
    rows = whole["rows"]
    assert [(row["method"], row["seed"]) for row in rows] == [
        *((name, seed) for seed in (0, 1) for name in NAMES[:3]), ("classifier", 0), ("classifier", 1)
    ]  # fmt: skip
    assert {file.name for file in (out / "rows").glob("*.json")} == {f"{n}-seed{s}.json" for n in NAMES for s in (0, 1)}
    assert all(row["metrics"]["auroc_robust"] is not None for row in rows)
    classifier = [row for row in rows if row["method"] == "classifier"]
    assert all("dice_lesion" not in row["metrics"] for row in classifier)
    page = (out / "traps.md").read_text()
    assert page == markdown_of(rows)
    for name in ("coarse masks (to unlearn)", "image classifier"):
        assert name in page
        assert name in printed
    assert "gap closed" in printed
    known = {(row["part"], row["artefact"]): row["phi"] for row in whole["correlations"]}
    assert known["train", "any"] == 1.0  # each abnormal image of training shows the artefact, and no other
    assert abs(known["test", "any"]) < 0.3
    assert "18 of 20 positive" in printed


def test_the_figure_names_its_axes_and_shows_the_gap(finished):
    rows = json.loads((finished[0] / "traps.json").read_text())["rows"]
    figure = traps_figure(rows, "SaabSynthetic")
    scores = ["AUROC", "robust AUROC", "robust AUROC in foreground"]
    assert [axis.get_xlabel() for axis in figure.axes] == [f"{score} (test part)" for score in scores]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][-1] == "image classifier"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean of coarse to oracle", "chance"]
    assert (finished[0] / "traps.png").stat().st_size > 10_000


def test_it_goes_on_where_it_stopped_and_takes_more_baselines(out):
    lost = [out / "rows" / f"{name}-seed1.json" for name in ("oracle", "classifier")]
    before = [json.loads(path.read_text()) for path in lost]
    for path in lost:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("rows/*")}
    main(["traps", *ARGUMENTS, "--seeds=[0,1]", "--baselines=[classifier,reversal,background]", f"--out={out}"])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for path, row in zip(lost, before, strict=True):
        assert {**json.loads(path.read_text()), "seconds": 0} == {**row, "seconds": 0}
    titles = {row["title"] for row in json.loads((out / "traps.json").read_text())["rows"]}
    assert {"coarse, gradient reversal", "coarse, mean background"} < titles


def test_a_folder_of_the_rows_alone_goes_on(out):
    """So do folders of before there was the verb: their rows and their comparison's settings are all it needs."""
    for path in ("traps.json", "traps.md", "traps.png", "baselines"):
        shutil.rmtree(out / path) if (out / path).is_dir() else (out / path).unlink()
    for path in out.glob("rows/classifier-*"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}))
    kept = {path: path.stat().st_mtime_ns for path in out.glob("rows/*")}
    main(["traps", *ARGUMENTS, "--seeds=[0,1]", f"--out={out}"])
    assert {path: path.stat().st_mtime_ns for path in out.glob("rows/*")} == kept
    assert len(json.loads((out / "traps.json").read_text())["rows"]) == 2 * len(NAMES)


def test_segmentation_rows_are_those_of_a_comparison(finished, tmp_path):
    data = SaabSynthetic(flips=False, coarsening=SpecificityWindow(8), **SMALL)
    out = tmp_path / "out"
    traps(data, out=out, methods=["coarse"], baselines=[], steps=3, accelerator="cpu")
    rows = [json.loads((folder / "rows" / "coarse-seed0.json").read_text()) for folder in (finished[0], out)]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    assert not (out / "baselines").exists()
    with pytest.raises(ValueError, match="holds a comparison with other settings"):
        compare(data, out=out, steps=4, methods=["coarse"])


def test_other_settings_are_refused(out):
    with pytest.raises(ValueError, match=r"other settings .*nothing is overwritten"):
        main(["traps", *ARGUMENTS, "--steps=4", "--seeds=[0]", f"--out={out}"])
    with pytest.raises(ValueError, match="holds a trap set with other settings"):
        main(["traps", *ARGUMENTS, "--seeds=[0]", "--classifier.lr_scheduler=null", f"--out={out}"])


def test_every_baseline_runs(tmp_path):
    data = SyntheticDermoscopy(size=32, **SMALL)
    options = {"methods": ["coarse"], "baselines": list(BASELINES), "steps": 1, "accelerator": "cpu"}
    traps(data, out=tmp_path / "out", evaluate_on="val", **options)
    rows = json.loads((tmp_path / "out" / "traps.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["coarse", *BASELINES]
    assert all(row["metrics"]["auroc"] is not None for row in rows)
    claimed = json.loads((tmp_path / "out" / "baselines" / "settings.json").read_text())
    assert claimed["artefacts"] == ["ruler", "ink", "patch", "hair"]  # nobody shows a dark corner
    assert (tmp_path / "out" / "traps.md").read_text().count("absent or undefined")  # there is no oracle


class Unflagged(SaabSynthetic):
    """The same images, and nobody says which show an artefact."""

    def cases(self):
        return [type(case)(**{**vars(case), "flags": {}}) for case in super().cases()]

    def read(self, case):
        return super().read(type(case)(**{**vars(case), "flags": {"any": 0}}))


def test_baselines_that_need_flags_are_refused_without(tmp_path):
    data = Unflagged(**SMALL)
    with pytest.raises(ValueError, match="reversal, classifier_reversal: gradient reversal hides artefacts by their"):
        traps(data, out=tmp_path / "out", baselines=["classifier", "reversal", "classifier_reversal"])
    assert not (tmp_path / "out").exists()
    traps(data, out=tmp_path / "out", methods=[], baselines=["classifier"], steps=1, accelerator="cpu")
    assert "robust" not in (tmp_path / "out" / "traps.md").read_text()
    assert json.loads((tmp_path / "out" / "traps.json").read_text())["correlations"] == []


def test_flags_are_those_that_tell_something():
    synthetic, saab = SyntheticDermoscopy(**SMALL), SaabSynthetic(**SMALL)
    assert artefacts_to_hide(synthetic, ["ink"], ["reversal"]) == ["ink"]
    assert artefacts_to_hide(saab, None, ["reversal"]) == ["any"]
    assert artefacts_to_hide(Unflagged(**SMALL), None, ["classifier"]) == []
    with pytest.raises(ValueError, match="'dark_corner' is the same in all training images: choose of any, ruler"):
        artefacts_to_hide(synthetic, ["dark_corner"], ["reversal"])
    with pytest.raises(ValueError, match="'ruler' is on no training image: choose of any"):
        artefacts_to_hide(saab, ["ruler"], ["reversal"])


def test_what_cannot_work_is_refused_before_training(tmp_path):
    data, out = SaabSynthetic(**SMALL), tmp_path / "out"
    with pytest.raises(ValueError, match="noise_crop tests the weights of the coarse model: put 'coarse' into methods"):
        traps(data, out=out, methods=["oracle"], baselines=["noise_crop"])
    with pytest.raises(ValueError, match="put 'classifier' into baselines before 'classifier_noise_crop'"):
        check_baselines(["classifier_noise_crop", "classifier"], [])
    with pytest.raises(ValueError, match="takes the masks of the coarse model: put 'coarse' into methods"):
        check_baselines(["classifier", "classifier_noise_crop"], [])
    check_baselines(["noise_crop"], [], present=["coarse"])
    with pytest.raises(ValueError, match="put 'coarse' before it in methods"):
        traps(data, out=out, methods=["fine_tune"], baselines=[])
    with pytest.raises(ValueError, match="give at least one"):
        traps(data, out=out, seeds=[])
    with pytest.raises(ValueError, match="20 of 20 images of the train part show 'lesion'"):
        traps(SyntheticDermoscopy(task="binary", **SMALL), out=out, baselines=["classifier"])
    with pytest.raises(ValueError, match="ranks class 1, the classifier 2; give both the same positive_class"):
        traps(data, out=out, classifier=lambda: ImageClassifier(num_classes=3), baselines=["classifier"])
    assert not out.exists()


@pytest.mark.parametrize("name", ["traps_isic", "traps_synthetic", "traps_saab"])
def test_benchmarks_parse(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["traps", f"--config={BENCHMARKS / f'{name}.yaml'}", "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    assert yaml.safe_load(output.out)["data"]["init_args"]["coarsening"] is not None


def test_the_classifier_can_be_anothers(tmp_path):
    made = []

    def small():
        made.append(ImageClassifier(in_channels=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)))
        return made[-1]

    traps(SaabSynthetic(**SMALL), classifier=small, out=tmp_path / "out", methods=[], baselines=["classifier"],
          steps=1, accelerator="cpu")  # fmt: skip
    claimed = json.loads((tmp_path / "out" / "baselines" / "settings.json").read_text())["classifier"]
    assert claimed["optimizer"].startswith("SGD")
