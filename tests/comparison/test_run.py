"""One table from one command: every row, resumed where it stopped, and never mixed with another experiment."""

import contextlib
import io
import json
import shutil

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from erode.comparison import DEFAULT_METHODS, METHODS, compare
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule

torch.set_num_threads(1)


def data(**options):
    small = {"size": 32, "train_images": 24, "val_images": 6, "test_images": 8, "batch_size": 4, "fine_fraction": 0.25}
    return SyntheticDermoscopy(**{**small, **options})


def model(rate=3e-3):
    return SegmentationModule(
        num_classes=3, class_names=data().class_names, bootstrap=20,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=rate),
    )  # fmt: skip


def run(out, *, factory=model, source=None, **options):
    """What a comparison prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "160")  # no line of the table breaks
        compare(source or data(), factory, **{"out": out, "steps": 2, "accelerator": "cpu", **options})
    return printed.getvalue()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "out"
    return out, run(out)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seeds": []}, "seeds are empty"),
        ({"epsilon": -1.0}, "gradient_clipping: epsilon = -1 asks for more than noise can give"),
        ({"steps": 9}, "gradient_clipping takes 10 noisy steps, more than the 9 of a row; raise steps"),
    ],
)
def test_what_no_row_could_be_is_refused_before_the_first(options, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        run(tmp_path / "out", methods=["coarse", "gradient_clipping"], **options)
    assert not (tmp_path / "out").exists()  # another try is no other comparison


def test_every_row_stands_in_the_table_and_in_the_report(finished):
    out, printed = finished
    page = (out / "report.html").read_text()
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    assert [row["method"] for row in rows] == list(DEFAULT_METHODS)
    for row in rows:
        assert row["title"] in printed
        assert row["title"] in page
        assert f"{row['metrics']['dice_lesion']:.3f}" in printed
    assert "data:image/png;base64," in page
    assert f"report: {out / 'report.html'}" in printed
    assert len({row["split"] for row in rows}) == 1
    assert {row["device"] for row in rows} == {"cpu"}
    assert {path.name for path in (out / "weights").iterdir()} == {f"{name}-seed0" for name in DEFAULT_METHODS}


def test_only_what_is_missing_is_computed_again(finished, copy):
    """As after a kill between training and testing: the row is gone, its released weights are not."""
    lost = copy / "rows" / "retain_view-seed0.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for part in ("rows", "weights") for path in (copy / part).rglob("*.*")}
    printed = run(copy)
    assert printed.count("seed 0: ") == 1
    again = json.loads(lost.read_text())
    assert {**again, "seconds": 0} == {**before, "seconds": 0}
    changed = {path.parent.name for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert changed == {"retain_view-seed0"}
    one, other = (
        (folder / "weights/retain_view-seed0/weights.safetensors").read_bytes() for folder in (finished[0], copy)
    )
    assert one == other


def test_a_finished_comparison_is_printed_again_without_training(copy):
    before = {path: content for path, content in contents(copy).items() if path.parts[0] in ("rows", "weights")}
    printed = run(copy)
    assert "seed 0: " not in printed
    assert METHODS["retain_view"].title in printed
    after = contents(copy)
    assert all(after[path] == content for path, content in before.items())


def test_rows_beyond_the_usual_join_when_asked_for(copy):
    more = ["neg_grad_plus", "cf_k", "eu_k"]
    printed = run(copy, methods=["coarse", *more])
    assert printed.count("seed 0: ") == len(more)
    for name in more:
        assert METHODS[name].title in printed
        record = json.loads((copy / "weights" / f"{name}-seed0" / "unlearning.json").read_text())
        assert record["guarantee"] == "approximate"


def test_another_seed_joins(copy):
    printed = run(copy, seeds=(0, 1), methods=["coarse", "fine_tune"])
    assert printed.count("seed 1: ") == 2
    assert "seed 0: " not in printed
    assert "±" in printed
    rows = json.loads((copy / "comparison.json").read_text())["rows"]
    assert len({row["split"] for row in rows}) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3},
        {"evaluate_on": "val"},
        {"precision": "bf16-mixed"},
        {"source": data(size=48)},
        {"source": data(seed=1)},
        {"source": data(fine_fraction=0.5)},
        {"factory": lambda: model(rate=1e-3)},
    ],
    ids=["steps", "part", "precision", "size", "data seed", "fraction", "rate"],
)
def test_other_settings_are_refused_and_nothing_is_touched(change, finished):
    before = contents(finished[0])
    with pytest.raises(
        ValueError, match=r"holds a comparison with other settings .* asked for\); nothing is overwritten"
    ):
        run(finished[0], **change)
    assert contents(finished[0]) == before


@pytest.mark.parametrize(
    ("methods", "start"),
    [(["retain_view", "fine_tune"], "coarse"), (["neg_grad", "coarse"], "coarse"), (["coarse", "rewind"], "staged")],
)
def test_rows_that_start_from_another_need_it_before_them(methods, start, tmp_path):
    with pytest.raises(ValueError, match=rf"starts from the {start} model: put '{start}' before it in methods"):
        run(tmp_path / "out", methods=methods)
    assert not (tmp_path / "out").exists()


def test_bad_data_is_told_before_anything_is_written(tmp_path):
    source = data()
    source.read = None  # nothing can be read
    with pytest.raises(TypeError):
        run(tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    """Ctrl-C in the middle of an operator leaves a record that says so; it must not be in the way."""
    out = tmp_path / "out"
    run(out, methods=["coarse"])

    class Stop(SegmentationModule):
        def training_step(self, batch, batch_idx):
            raise MisconfigurationException("cut short")

    def stopping():
        return Stop(num_classes=3, class_names=data().class_names, bootstrap=20)

    with pytest.raises(MisconfigurationException, match="cut short"):
        run(out, factory=stopping, methods=["coarse", "fine_tune"])
    record = json.loads((out / "weights" / "fine_tune-seed0" / "unlearning.json").read_text())
    assert record["completed"] is False
    printed = run(out, methods=["coarse", "fine_tune"])
    assert printed.count("seed 0: ") == 1
    assert json.loads((out / "weights" / "fine_tune-seed0" / "unlearning.json").read_text())["completed"] is True


@pytest.mark.parametrize("part", ["val", "test"])
def test_only_the_part_that_is_evaluated_on_is_looked_at(part, tmp_path, monkeypatch):
    """Who chooses on validation images sees no test image, in numbers or in pictures."""
    source, drawn = data(), []
    gallery = compare.__globals__["gallery_figure"]

    def watched(samples, names):
        drawn.extend(sample.title for sample in samples)
        return gallery(samples, names)

    monkeypatch.setitem(compare.__globals__, "gallery_figure", watched)
    printed = run(tmp_path / "out", source=source, methods=["coarse"], steps=1, evaluate_on=part)
    assert drawn
    assert set(drawn) <= {case.id for case in source.part(part)}
    for text in (printed, (tmp_path / "out" / "report.html").read_text()):
        assert f"{part.capitalize()} part, fine masks" in text


def test_a_certified_row_tells_its_guarantee(tmp_path):
    methods = ("coarse", "gradient_clipping", "same_noise", "output_perturbation", "retain_view")
    run(tmp_path / "out", methods=methods, steps=12)
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    rows = {row["method"]: row["unlearning"] for row in comparison["rows"]}
    certified = {"guarantee": "certified", "epsilon": 1.0, "delta": 1e-7, "gradient_evaluations": 12}
    assert rows["gradient_clipping"] == rows["same_noise"] == rows["output_perturbation"] == certified
    assert rows["retain_view"] == {"guarantee": "exact", "epsilon": 0.0, "delta": 0.0, "gradient_evaluations": 12}
    assert rows["coarse"] is None
