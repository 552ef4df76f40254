"""What is certified is what was calibrated."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, fit, network

from erode.callbacks import Blockwise, GradientClipping, ModelClipping, OutputPerturbation
from erode.certificates import verify


@pytest.mark.parametrize(
    ("operator_class", "setting", "value"),
    [
        (GradientClipping, "learning_rate", 0.5),
        (ModelClipping, "radius", 1.0),
        (OutputPerturbation, "radius", 1.0),
        (Blockwise, "clip_norm", 9.0),
    ],
)
def test_settings_that_change_after_the_calibration_are_refused(operator_class, setting, value, tmp_path):
    operator = operator_class()
    setattr(operator, setting, value)
    with pytest.raises(MisconfigurationException, match=f"{setting} of this {operator_class.__name__} was changed"):
        fit(Module(network(norm=False)), tmp_path, operator)
    assert not (tmp_path / "unlearned").exists()


class Scheduler(pl.Callback):
    """Changes the learning rate of the certified steps while they are taken."""

    def on_train_start(self, trainer, module):
        trainer.callbacks[0].learning_rate = 1e6


def test_the_rate_of_a_step_is_that_of_the_account(tmp_path):
    ends = []
    for callbacks in ([], [Scheduler()]):
        torch.manual_seed(0)
        module = Module(network(norm=False))
        folder = tmp_path / str(len(callbacks))
        fit(module, folder, GradientClipping(steps=2, seed=1, anchor="zeros"), *callbacks, max_steps=2)
        ends.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


class Tighter(GradientClipping):
    """Takes other arguments than those of its base."""

    card = GradientClipping.card

    def __init__(self, share: float = 0.5):
        self.share = share
        super().__init__(radius=1e-3 * share, steps=2)


def test_a_class_of_ones_own_may_take_other_arguments(tmp_path):
    fit(Module(network(norm=False)), tmp_path, Tighter())
    verify(tmp_path / "unlearned")


def test_a_second_run_with_one_operator_is_certified_too(tmp_path):
    operator = Blockwise(steps=1)
    for name in ("first", "second"):
        operator._folder = tmp_path / name
        fit(Module(network(norm=False)), tmp_path, operator)
        verify(tmp_path / name / "certificate.json")
