"""Every verb is found, explained, and pays for nothing that it does not use."""

import subprocess
import sys

import pytest

from erode.cli import main
from erode.cli.verbs import VERBS, listing


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does(verb):
    summary = VERBS[verb].summary()
    assert summary.endswith((".", "?"))
    assert len(summary) <= 110


def test_help_names_all_of_them(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert listing() in printed
    assert "unlearn " in printed


def test_a_misspelt_verb_is_told_all_of_them(capsys):
    with pytest.raises(SystemExit) as end:
        main(["verfy"])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert [verb for verb in ("verfy", "unlearn", *VERBS) if verb not in printed] == []


def test_an_error_about_options_is_not_about_verbs(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--modl=1"])
    assert "further subcommands" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["verify", "rewind"])
def test_checking_a_file_does_not_wait_for_lightning(verb):
    code = f"import sys, erode.cli.verbs as v; v.VERBS[{verb!r}].load(); sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


NAMES_CLASSES = [name for name, verb in VERBS.items() if verb.names_classes]


def test_verbs_that_take_data_or_networks_know_ours_by_name():
    assert {"audit", "benchmark", "classify", "compare", "correlations", "ladder", "measure", "plan"} <= {
        *NAMES_CLASSES
    }
    code = """
import erode.cli.verbs as v
v.VERBS["audit"].load()
from erode.parsing import FreshParser
from lightning.pytorch import LightningDataModule, LightningModule
parser = FreshParser()
parser.add_argument("--model", type=LightningModule)
parser.add_argument("--data", type=LightningDataModule)
parser.parse_args(["--model=SegmentationModule", "--model.num_classes=2", "--data=SyntheticDermoscopy"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
