"""What people see of an error: a line of ours, or the way to their own code."""

import sys

import pytest
from cli_runs import SHORT, SMALL, USUAL

from erode.cli import console

THEIRS = """
from erode.lightning_modules import SegmentationModule
class Seg(SegmentationModule):
    def training_step(self, batch):
        image, mask = batch
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "theirs.py").write_text(THEIRS)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["erode", *arguments])
        console()

    return call


def test_what_we_refuse_is_one_line(run):
    with pytest.raises(SystemExit) as end:
        run("verify", "absent.json")
    assert str(end.value).startswith("erode: absent.json is no readable certificate")
    assert str(end.value).count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--data.view=retian"], "view must be one of coarse, fine, fine_subset, retain, got 'retian'"),
        (["--model.num_classes=1"], "num_classes counts the background, so it is at least 2; got 1"),
        (["--trainer.callbacks+=GradientClipping", "--trainer.callbacks.delta=2"], "delta must be a number strictly"),
    ],
)
def test_what_a_class_refuses_is_not_buried_under_all_types_that_a_value_may_have(run, arguments, why):
    with pytest.raises(SystemExit) as end:
        run("fit", *USUAL, *arguments)
    assert str(end.value).startswith(f"erode: {why}")
    assert str(end.value).count("\n") == 1


def test_configurations_of_the_package_go_by_their_names_anywhere(run, capsys):
    run("fit", "--config", "data/synthetic.yaml", "--config=configs/model/unet.yaml", *SMALL, *SHORT)
    assert "weights: runs/fit-0/weights.safetensors" in capsys.readouterr().out


def test_a_module_that_is_newer_than_the_installation_is_told(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "erode.certificates", None)
    monkeypatch.delattr("erode.certificates", raising=False)
    with pytest.raises(SystemExit, match=r"^erode: erode\.certificates is newer than what is installed: run make"):
        run("verify", "certificate.json")


def test_an_error_in_code_of_the_user_shows_where(run):
    with pytest.raises(ValueError, match="too many values to unpack"):
        run("fit", *USUAL, "--model=theirs.Seg")
