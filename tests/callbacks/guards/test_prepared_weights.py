"""Weights that a hook of the module loads after the operator has done its work do not pass for what it made."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader
from two_loaders import TheirModule, squares, trainer_for

from erode.callbacks import (
    CNS,
    ExposureLedger,
    FineTune,
    GradientClipping,
    ModelClipping,
    OutputPerturbation,
    Retrain,
    Rewind,
)
from erode.requests import read_ledger
from erode.weights import save_weights

torch.set_num_threads(1)

HOOKS = ["on_fit_start", "on_train_start", "on_train_epoch_start"]


class Warm(TheirModule):
    """Puts all parameters to a number in one of its hooks, once."""

    def __init__(self, hook=None):
        super().__init__(norm=False)
        if hook is not None:
            setattr(self, hook, self._load)

    def _load(self, *_):
        if not getattr(self, "loaded", False):
            self.loaded = True
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.data.fill_(0.5)  # past what autograd counts


def loader():
    return DataLoader(squares(8, 1), 4)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "operator", [Retrain, GradientClipping, ModelClipping, OutputPerturbation, CNS], ids=lambda kind: kind.__name__
)
def test_a_warm_start_behind_the_operator_is_refused_and_releases_nothing(operator, hook, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"something wrote the weights|another callback or hook wrote"):
        trainer_for(tmp_path, operator(), max_steps=30, max_epochs=-1).fit(Warm(hook), loader())
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_what_nothing_wrote_is_released(tmp_path):
    trainer_for(tmp_path, Retrain(), max_steps=4).fit(Warm(), loader())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class ByHand(Warm):
    """Normalises a layer before its first pass, and steps past Lightning's wrapper."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        with torch.no_grad():
            self.body[0].bias.clamp_(max=0.1)
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        super().training_step(batch, index).backward()
        optimizer.step()


def test_what_training_itself_does_by_hand_is_no_interference(tmp_path):
    trainer_for(tmp_path, Retrain(), max_epochs=2).fit(ByHand(), loader())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_an_operator_that_promises_nothing_does_not_mind(tmp_path):
    trainer_for(tmp_path, FineTune(), max_steps=4).fit(Warm("on_train_start"), loader())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


def unexposed(folder):
    module = Warm()
    trainer = trainer_for(folder, ExposureLedger("initialisation", atoms=lambda _: {"z": "outside"}), max_steps=2)
    trainer.fit(module, loader())
    save_weights(module, folder / "weights.safetensors")
    return folder


def test_rewinding_too(tmp_path):
    folder = unexposed(tmp_path / "kept")
    rewind = Rewind(folder, request=["scan"], batch_atoms=lambda _: {"z": "outside"}, unrecorded=["scan"])
    with pytest.raises(MisconfigurationException, match="something wrote the weights after Rewind"):
        trainer_for(tmp_path, rewind, max_steps=4).fit(Warm("on_train_start"), loader())


@pytest.mark.parametrize("hook", HOOKS[1:])
def test_a_ledger_knows_nothing_of_weights_that_came_from_elsewhere(hook, tmp_path):
    """A ledger is no reason to stop a training, but it must not vouch for what it did not see."""
    keeper = ExposureLedger("initialisation", atoms=lambda _: {"z": "outside"})
    trainer_for(tmp_path, keeper, max_steps=2).fit(Warm(hook), loader())
    assert read_ledger(tmp_path / "ledger.json").exposure.unknown


def test_a_ledger_of_a_fresh_start_knows_what_it_saw(tmp_path):
    assert not read_ledger(unexposed(tmp_path) / "ledger.json").exposure.unknown


def test_the_start_is_looked_at_on_resume_too(tmp_path):
    """A checkpoint that lacks some weights leaves those that the module was made with."""

    class Partial(Warm):
        strict_loading = False

        def on_save_checkpoint(self, checkpoint):
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if "body.0" not in k}

    saver = pl.callbacks.ModelCheckpoint(tmp_path, "cut", every_n_train_steps=2)
    trainer_for(tmp_path, Retrain(), saver, max_steps=2, enable_checkpointing=True).fit(Partial(), loader())
    with pytest.raises(MisconfigurationException, match=r"does not hold the weights that .*cut.ckpt was saved with"):
        trainer_for(tmp_path / "again", Retrain(), max_steps=4).fit(
            Partial(), loader(), ckpt_path=tmp_path / "cut.ckpt"
        )
