"""What an earlier fit left in a Trainer would decide how this one goes; real fits, one after the other."""

import json

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins import MixedPrecision
from noisy_runs import Module, fit, loader, promises

from erode.callbacks import ExposureLedger, FineTune, Retrain


@promises
def test_a_trainer_that_has_trained_is_refused(make, tmp_path):
    module = Module()
    trainer = fit(module, tmp_path, max_steps=4)
    trainer.callbacks.append(make())
    trainer.fit_loop.epoch_loop.max_steps = 20
    with pytest.raises(MisconfigurationException, match="counts on from step 4 and epoch 2"):
        trainer.fit(module, loader())
    assert not list(tmp_path.rglob("weights.safetensors"))


def test_a_ledger_of_a_fresh_start_refuses_it_too(tmp_path):
    trainer = fit(Module(), tmp_path, max_steps=4)
    trainer.callbacks.append(ExposureLedger(history="initialisation"))
    trainer.fit_loop.epoch_loop.max_steps = 20
    with pytest.raises(MisconfigurationException, match="this Trainer has trained before"):
        trainer.fit(Module(), loader())


def test_without_a_promise_it_may_go_on_and_its_own_steps_count(tmp_path):
    module = Module()
    trainer = fit(module, tmp_path, max_steps=4)
    trainer.callbacks.append(FineTune())
    trainer.fit_loop.epoch_loop.max_steps = 20
    trainer.fit(module, loader())
    assert json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())["steps"] == 16


def test_a_loss_scale_that_was_used_is_refused(tmp_path):
    module, plugin = Module(), MixedPrecision("16-mixed", "cpu")
    fit(module, tmp_path / "original", plugins=[plugin])
    with pytest.raises(MisconfigurationException, match="loss scale of MixedPrecision comes from an earlier fit"):
        fit(module, tmp_path / "unlearning", Retrain(), plugins=[plugin])
    fit(module, tmp_path / "fresh", Retrain(), plugins=[MixedPrecision("16-mixed", "cpu")])
    assert (tmp_path / "fresh" / "unlearned" / "weights.safetensors").exists()
