import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

METRICS = ["pooled", "interval", "pixelwise", "leakage", "tightness", "dice", "outcome", "auroc", "robust"]
METRICS += ["completeness", "distance", "zrf", "probe", "slices", "radial"]
METRICS += ["group_accuracy", "group_dice", "group_outcome", "group_iou"]
METRICS += ["membership", "content"]


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    script = Path(__file__).with_name("ddp.py")
    arguments = ["2", str(folder / "store"), str(folder / "out.pt")]
    processes = [
        subprocess.Popen([sys.executable, str(script), str(rank), *arguments], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return torch.load(folder / "out.pt", weights_only=True)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(nan=-7), other.nan_to_num(nan=-7))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def test_every_metric_is_listed(evaluations):
    assert set(METRICS) == evaluations["together"].keys()


@pytest.mark.parametrize("metric", METRICS)
def test_two_processes_equal_one_to_the_last_digit(evaluations, metric):
    together, alone = evaluations["together"][metric], evaluations["alone"][metric]
    assert together.keys() == alone.keys()
    for name in alone:
        assert same(together[name], alone[name]), (name, together[name], alone[name])
