"""Runs in which nothing could be done say so before anything is changed."""

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, fit, promises
from torch import nn

from erode.callbacks import FineTune, GradientClipping, Retrain
from erode.weights import weights_digest

NO_STEP = [{"max_steps": 0}, {"max_steps": -1, "max_epochs": 0}, {"limit_train_batches": 0}]


@pytest.mark.parametrize("settings", NO_STEP, ids=str)
@promises
def test_a_run_without_a_step_is_refused_with_its_weights_as_they_were(make, settings, tmp_path):
    module = Module()
    before = weights_digest(module)
    with pytest.raises(MisconfigurationException, match=r"steps?"):
        fit(module, tmp_path, make(), **settings)
    assert weights_digest(module) == before


def test_a_resumed_run_without_a_step_left_does_not_end_in_silence(tmp_path):
    trainer = fit(Module(), tmp_path / "first", FineTune(), max_steps=2)
    trainer.save_checkpoint(tmp_path / "ended.ckpt")
    with pytest.raises(MisconfigurationException, match="no training step was taken"):
        fit(Module(), tmp_path, FineTune(), max_steps=2, ckpt_path=tmp_path / "ended.ckpt")


@pytest.mark.parametrize("make", [Retrain, lambda: GradientClipping(steps=2)])
def test_a_layer_without_a_shape_is_named(make, tmp_path):
    module = Module(nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.Conv2d(4, 2, 1)))
    with pytest.raises(MisconfigurationException, match=r"network\.0\.weight has no shape yet"):
        fit(module, tmp_path, make())
