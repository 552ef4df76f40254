"""Networks and optimisers that a module does not know, wherever they stand: they may have learnt the forget set."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, fit, loader, network, promises
from torch import nn

from erode.callbacks import OutputPerturbation, Retrain

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Bank(nn.Module):
    """A network whose weights are buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(2, 3, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, padding=1)


def scripted():
    return torch.jit.freeze(torch.jit.script(nn.Conv2d(3, 2, 3, padding=1).eval()))


class Taught(Module):
    """Learns from a network in a plain attribute."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher = (teacher,)


@pytest.mark.parametrize("teacher", [Bank, scripted, lambda: nn.Conv2d(3, 2, 1)], ids=["buffers", "script", "layer"])
@promises
def test_a_network_is_found_whatever_its_weights_are(make, teacher, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"^teacher holds a \w+ that the module does not know"):
        fit(Taught(teacher()), tmp_path, make())


@promises
def test_constants_of_a_script_are_no_hiding_place(make, tmp_path):
    module = Module()
    module.teacher = scripted()
    with pytest.raises(MisconfigurationException, match="teacher is a frozen TorchScript module"):
        fit(module, tmp_path, make())


def test_a_script_that_was_not_frozen_is_a_network_like_others(tmp_path):
    fit(Module(torch.jit.script(network())), tmp_path, OutputPerturbation(anchor="zeros"))
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class Pseudo(pl.LightningDataModule):
    """Labels by a network of its own."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher

    def train_dataloader(self):
        return loader()

    def on_after_batch_transfer(self, batch, index):
        return batch if self.teacher is None else {**batch, "mask": self.teacher(batch["image"]).argmax(1)}


class Averages(pl.Callback):
    """Weights near those of the original model."""

    def __init__(self, module):
        self.average = copy.deepcopy(module.network)
        with torch.no_grad():
            for weight in self.average.parameters():
                weight.mul_(0.999)


@promises
def test_networks_of_data_and_callbacks_are_found_too(make, tmp_path):
    module = Module()
    for teacher, callbacks, place in (
        (copy.deepcopy(module.network), [], r"Pseudo\.teacher"),
        (None, [Averages(module)], r"Averages\.average"),
    ):
        trainer = pl.Trainer(max_steps=9, callbacks=[*callbacks, make()], default_root_dir=tmp_path, **QUIET)
        with pytest.raises(MisconfigurationException, match=rf"{place} holds a Sequential that the module does not"):
            trainer.fit(module, datamodule=Pseudo(teacher))


class ByHand(Module):
    """Keeps its optimiser to itself."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.own = torch.optim.Adam(self.network.parameters(), lr=0.01)

    def training_step(self, batch, index):
        self.own.zero_grad()
        self.manual_backward(super().training_step(batch, index))
        self.own.step()

    def configure_optimizers(self):
        return None


def test_an_optimiser_that_lightning_does_not_know_may_not_remember_steps(tmp_path):
    module = ByHand()
    pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(module, loader())
    with pytest.raises(MisconfigurationException, match="own holds a Adam that has taken steps"):
        fit(module, tmp_path, Retrain(), max_steps=-1, max_epochs=1)


class LookAhead(torch.optim.Optimizer):
    """Wraps another, without its own constructor, as some do."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.state, self.defaults = inner, inner.param_groups, {}, inner.defaults

    def step(self, closure=None):
        return self.inner.step(closure)


class Wrapped(Module):
    def configure_optimizers(self):
        return LookAhead(torch.optim.Adam(self.parameters()))


def test_an_optimiser_that_cannot_be_watched_is_named(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"LookAhead does not call Optimizer\.__init__"):
        fit(Wrapped(), tmp_path, Retrain())
