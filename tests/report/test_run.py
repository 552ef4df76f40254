"""The page says what the folder holds, needs nothing else, and lets no file speak HTML."""

import json
import re

import pytest
from pages import EVIL, Page

from erode.pictures import Panel, curves_figure, save_figure
from erode.report import report


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "unlearn-0"
    (folder / "unlearned").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"data: {EVIL}\n")
    (folder / "metrics.csv").write_text(
        "epoch,step,train/loss,val/dice_lesion,val/s_global\n0,0,0.91,,\n0,1,0.73,,\n0,1,,0.8125,4.5\n"
    )
    (folder / "spurious_information.csv").write_text(
        "step,seconds,weights,s_global,leakage,gap,dice_lesion,dice_class\n"
        "0,0.0,original,9.875,0.5,0.4,0.61,nan\n2,1.5,current,1.125,0.125,0.0625,0.83,0.7\n"
    )
    record = {
        "operator": "Retrain",
        "guarantee": "exact",
        "paper": EVIL,
        "settings": {"only_fine": True, EVIL: None},
        "completed": True,
        "released_weights": "ab" * 32,
        "steps": 1234,
        "seconds": 5.5,
        "software": {"torch": "2.13"},
    }
    (folder / "unlearned/unlearning.json").write_text(json.dumps(record))
    split = {"fine": ["a"], "coarse": ["b", "c"], "coarsening": {"kind": "disk"}, "digest": "cd" * 32}
    (folder / "unlearned/split.json").write_text(json.dumps(split))
    figure = curves_figure([Panel("t", "u", {"a": ([1, 2], [1.0, 2.0])})])
    save_figure(figure, folder / "gallery.png")
    save_figure(figure, folder / "spurious_information.png")
    return folder


@pytest.fixture
def comparison(tmp_path):
    folder = tmp_path / "compare"
    folder.mkdir()
    rows = [
        {"method": m, "title": t, "seed": s, "metrics": {"dice": d, "auroc": None}, "seconds": 3.0}
        for m, t, s, d in [("a", "A", 0, 0.25), ("b", EVIL, 0, 0.5), ("a", "A", 1, 0.75), ("b", EVIL, 1, 0.5)]
    ]
    content = {
        "settings": {"steps": 600, "evaluated on": "test"},
        "columns": [["dice", "Dice"], ["auroc", "AUROC"]],
        "rows": rows,
    }
    (folder / "comparison.json").write_text(json.dumps(content))
    save_figure(curves_figure([Panel("t", "u", {"a": ([1], [1.0])})]), folder / "samples.png")
    return folder


def test_run_page_tells_the_facts(run):
    page = Page(report(run))
    for fact in ("Retrain", "1234", "ab" * 32, "cd" * 32, "9.875", "1.125", "0.83", "0.8125", "disk"):
        assert fact in page.text
    assert "Not in this folder" not in page.text
    assert (run / "curves.png").exists()


def test_comparison_page_has_mean_and_sd_over_seeds(comparison):
    page = Page(report(comparison))
    assert "0.500 ± 0.354" in page.text  # .25 and .75
    assert "0.500 ± 0.000" in page.text
    assert "–" in page.text  # AUROC was never defined
    assert sum(tag == "img" for tag, _ in page.tags) == 2


@pytest.mark.parametrize("part", ["test", "val"])
def test_comparison_page_names_the_part_that_was_evaluated_on(comparison, part):
    content = json.loads((comparison / "comparison.json").read_text())
    content["settings"]["evaluated on"] = part
    (comparison / "comparison.json").write_text(json.dumps(content))
    text = Page(report(comparison)).text
    assert [f"{name} part, fine masks" in text for name in ("Test", "Val")] == [part == "test", part == "val"]


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_page_stands_alone_and_names_cannot_become_markup(kind, request):
    page = Page(report(request.getfixturevalue(kind)))
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert images
    assert all(a["src"].startswith("data:image/png;base64,") and a["alt"] for a in images)
    assert not [a for _, a in page.tags if "href" in a]
    assert EVIL in page.text


def test_missing_parts_are_named(run):
    for name in ("gallery.png", "spurious_information.csv", "unlearned/split.json"):
        (run / name).unlink()
    text = Page(report(run)).text
    assert "Not in this folder" in text
    assert "add PredictionGallery" in text
    assert "add SpuriousInformationMonitor" in text


def test_cut_short_run_is_said_to_release_nothing(run):
    path = run / "unlearned/unlearning.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "completed": False, "why": "KeyboardInterrupt"}))
    text = Page(report(run)).text
    assert "nothing was released" in text
    assert "never saw the forget set" not in text


def test_the_folder_of_the_release_is_that_of_its_run(run):
    assert report(run / "unlearned") == run / "report.html"


def test_a_folder_above_a_run_names_it(run):
    with pytest.raises(ValueError, match=rf"holds nothing to report.*within it lie .*{re.escape(str(run))}"):
        report(run.parent)


def test_nothing_to_report_names_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"holds nothing to report.*erode compare"):
        report(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="no folder"):
        report(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["unlearned/unlearning.json", "gallery.png"])
def test_broken_files_are_named_and_an_earlier_page_survives(run, name):
    page = report(run).read_bytes()
    (run / name).write_text("{")
    with pytest.raises(ValueError, match=name.split("/")[-1]):
        report(run)
    assert (run / "report.html").read_bytes() == page


def test_page_can_stand_elsewhere(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    out = report(run, tmp_path / "elsewhere" / "page.html")
    assert out == tmp_path / "elsewhere" / "page.html"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
