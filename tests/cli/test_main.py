"""What people see of an error: a line of ours, or the way to their own code."""

import pytest
from cli_runs import USUAL

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


def test_an_error_in_code_of_the_user_shows_where(run):
    with pytest.raises(ValueError, match="too many values to unpack"):
        run("fit", *USUAL, "--model=theirs.Seg")
