"""Plans as a user makes them."""

import pytest
from plan_runs import read

from erode.cli import main
from erode.lightning_modules import SegmentationModule
from erode.weights import save_weights


@pytest.fixture
def planned(capsys):
    def run(*arguments):
        main(["plan", *arguments, "--out=plan"])
        return read("plan"), capsys.readouterr().out

    return run


@pytest.fixture
def weights(tmp_path):
    module = SegmentationModule(num_classes=3)
    return module, str(save_weights(module, tmp_path / "trained.safetensors"))
