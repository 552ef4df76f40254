"""The page computes certificates again, and shows what speaks of the same weights only."""

import json

import pytest
from noisy_runs import Module, fit, network
from pages import EVIL, Page

from erode.callbacks import GradientClipping, Retrain
from erode.report import report
from erode.weights import save_weights


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(Module(network(norm=False)), folder, GradientClipping(steps=2))
    return folder


def evidence(folder, name, digest):
    """A folder of erode audit or erode measure, as far as the page reads it."""
    folder.mkdir()
    about = {"weights": {"digest": digest}} if name == "audit" else {"models": {"unlearnt": {"digest": digest}}}
    (folder / f"{'audit' if name == 'audit' else 'measures'}.json").write_text(json.dumps(about))
    table = f"| what | value |\n| --- | --- |\n| {EVIL} | 0.25 |\n\n- left out: {name}\n"
    (folder / f"{'audit' if name == 'audit' else 'measures'}.md").write_text(table)
    return folder


def released(run):
    return json.loads((run / "unlearned/unlearning.json").read_text())["released_weights"]


def test_a_certificate_is_computed_again_and_shown_with_its_assumptions(certified, tmp_path):
    text = Page(report(certified, tmp_path / "page.html")).text
    assert "(ε = 1, δ = 1e-07)-indistinguishable" in text
    assert "found to belong to the released weights" in text
    assert "Only the released weights leave" in text
    assert "Of the trained weights: the start will not survive: this is a re-initialisation" in text
    assert "This page holds logs of the run, so it stays with its owner" in text


def test_a_certificate_that_does_not_hold_promises_nothing(certified, tmp_path):
    path = certified / "unlearned/certificate.json"
    before = path.read_text()
    try:
        path.write_text(before.replace('"radius": 0.001', '"radius": 0.0001'))
        text = Page(report(certified, tmp_path / "page.html")).text
    finally:
        path.write_text(before)
    assert "There is no certificate that holds" in text
    assert "Certified: (ε, δ)-indistinguishable" not in text
    assert "-indistinguishable from those of" not in text
    assert "may leave" not in text


@pytest.fixture
def exact(tmp_path):
    fit(Module(network(norm=False)), tmp_path, Retrain())
    return tmp_path


def test_exact_is_said_of_the_weights_that_were_released_only(exact, tmp_path):
    """Not of weights that took their place, and not where there are none."""
    weights, promise = exact / "unlearned/weights.safetensors", "Exact: the released weights come from training"
    assert promise in Page(report(exact, tmp_path / "page.html")).text
    save_weights(Module(network(norm=False)), weights)
    text = Page(report(exact, tmp_path / "page.html")).text
    assert promise not in text
    assert "Nothing is promised of what stands in this folder now" in text
    assert "holds other weights" in text
    weights.unlink()
    assert "there are no weights" in Page(report(exact, tmp_path / "page.html")).text


def test_a_certificate_without_weights_is_about_none_of_the_folder(tmp_path):
    fit(Module(network(norm=False)), tmp_path, GradientClipping(steps=2))
    (tmp_path / "unlearned/weights.safetensors").unlink()
    text = Page(report(tmp_path, tmp_path / "page.html")).text
    assert "the weights that it is about are not in this folder" in text
    assert "-indistinguishable from those" not in text


def test_audits_and_measures_of_the_released_weights_are_shown(certified, tmp_path):
    digest = released(certified)
    folders = [evidence(tmp_path / name, name, digest) for name in ("audit", "measure")]
    page = Page(report(certified, tmp_path / "page.html", folders))
    assert page.text.count("0.25") == 2
    assert "left out: audit" in page.text
    assert "left out: measure" in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "0.25" in Page(report(certified, tmp_path / "one.html", folders[0])).text


@pytest.mark.parametrize("name", ["audit", "measure"])
def test_evidence_about_other_weights_is_refused(certified, tmp_path, name):
    other = evidence(tmp_path / name, name, "ab" * 32)
    with pytest.raises(ValueError, match=f"speaks of other weights .*give erode {name} the weights"):
        report(certified, tmp_path / "page.html", other)
    with pytest.raises(ValueError, match=r"holds no audit\.json or measures\.json"):
        report(certified, tmp_path / "page.html", tmp_path)
