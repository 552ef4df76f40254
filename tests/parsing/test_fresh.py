"""Rows of a configuration share nothing: the second model does not start from what the first has learnt."""

import contextlib
import io
import json
from collections.abc import Callable

import pytest
import torch
import yaml

from erode.cli import main
from erode.lightning_modules import SegmentationModule
from erode.parsing import FreshParser

torch.set_num_threads(1)

CONV = {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 3, "kernel_size": 1}}
MODEL = {
    "class_path": "SegmentationModule",
    "init_args": {
        "num_classes": 3,
        "class_names": ["background", "benign", "malignant"],
        "bootstrap": 10,
        "network": CONV,
        "loss": {"class_path": "erode.losses.RoleLoss", "init_args": {"dice": 0.5}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}},
    },
}
DATA = {
    "class_path": "SyntheticDermoscopy",
    "init_args": {"size": 32, "train_images": 16, "val_images": 6, "test_images": 6, "batch_size": 4},
}


@pytest.fixture(scope="module")
def make():
    parser = FreshParser(exit_on_error=False)
    parser.add_argument("--model", type=Callable[[], SegmentationModule] | None)
    return parser.instantiate(parser.parse_object({"model": MODEL})).model


def test_modules_of_one_factory_share_no_part(make):
    one, other = make(), make()
    assert one.network is not other.network
    assert one.loss is not other.loss
    assert one.describe() == other.describe()
    assert one.describe()["optimizer"].startswith("SGD")


def test_the_seed_before_a_call_draws_its_weights(make):
    weights = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        weights.append(make().network.weight)
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_a_row_does_not_depend_on_the_rows_before_it(tmp_path):
    """Each starts from the weights that its seed draws, whatever was trained before it, with a configured network."""
    found = []
    for methods in (["oracle"], ["coarse", "oracle"]):
        config, out = tmp_path / "config.yaml", tmp_path / "-".join(methods)
        rest = {"steps": 4, "seeds": [0], "accelerator": "cpu", "methods": methods}
        config.write_text(yaml.safe_dump({"data": DATA, "model": MODEL, **rest}), encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()):
            main(["compare", "--config", str(config), "--out", str(out)])
        row = json.loads((out / "rows" / "oracle-seed0.json").read_text())
        found.append({**row, "seconds": 0})
    assert found[0] == found[1]
