"""Weights that come back in the middle of a run, or at its end, do not pass for what training made of them."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from noisy_runs import Module, fit, network, promises
from torch import nn
from torch.optim.swa_utils import AveragedModel

from erode.callbacks import FineTune, Retrain
from erode.weights import save_weights


class Loads(Module):
    """Loads the weights from before in a hook of its own, at the third epoch or its first chance after that."""

    def __init__(self, hook):
        super().__init__()
        before = copy.deepcopy(self.network.state_dict())  # as in a file: no attribute shows it
        self.loaded = False
        own = getattr(self, hook)

        def load(*arguments):
            if not self.loaded and (hook == "configure_optimizers" or self.trainer.current_epoch >= 2):
                self.loaded = hook != "configure_optimizers"
                self.network.load_state_dict(before)
            return own(*arguments)

        setattr(self, hook, load)


HOOKS = ["configure_optimizers", "on_train_batch_start", "training_step", "on_train_epoch_start", "on_train_epoch_end"]


@pytest.mark.parametrize("hook", HOOKS)
@promises
def test_a_hook_that_loads_weights_releases_nothing(make, hook, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"(wrote|writes) the weights"):
        fit(Loads(hook), tmp_path, make(), max_steps=8)
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


class RestoreBest(pl.Callback):
    """Keeps a copy of the best weights, and puts it back at the end."""

    def __init__(self):
        self.best, self.loss = None, float("inf")

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if outputs["loss"] < self.loss:
            self.best, self.loss = copy.deepcopy(module.state_dict()), outputs["loss"]

    def on_train_end(self, trainer, module):
        module.load_state_dict(self.best)


@promises
def test_a_callback_that_restores_the_best_weights_releases_nothing(make, tmp_path):
    """The best may have been those of a noisy step, before most of the noise."""
    with pytest.raises(MisconfigurationException, match="restores the best weights"):
        fit(Module(), tmp_path, RestoreBest(), make(), max_steps=8)
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_behind_the_operator_it_finds_the_weights_released(tmp_path):
    fit(Module(), tmp_path, Retrain(), RestoreBest(), max_steps=8)
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_an_operator_that_promises_nothing_does_not_mind(tmp_path):
    fit(Loads("on_train_epoch_start"), tmp_path, FineTune(), max_steps=8)
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class Quasi(Module):
    """An optimiser that writes the weights several times in a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


@promises
def test_an_optimiser_may_write_as_often_as_it_likes(make, tmp_path):
    fit(Quasi(), tmp_path, make(), max_steps=6)
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class Teacher(Module):
    """Averages its weights in a frozen layer."""

    def __init__(self):
        super().__init__()
        self.average = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)

    def on_train_batch_end(self, *arguments):
        for mean, weight in zip(self.average.parameters(), self.network[0].parameters(), strict=True):
            mean.lerp_(weight.detach(), 0.1)


def test_accumulated_gradients_and_averages_of_weights_are_no_interference(tmp_path):
    fit(Teacher(), tmp_path, Retrain(), max_steps=8, accumulate_grad_batches=2)
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class HeadOnly(Module):
    """Trains its last layer, and lets a hook act at the third epoch."""

    def __init__(self, act=None, frozen=False):
        super().__init__()
        self.act = act
        self.network[0].requires_grad_(not frozen)

    def on_train_epoch_start(self):
        if self.act is not None and self.current_epoch == 2:
            self.act(self)

    def configure_optimizers(self):
        return torch.optim.SGD(self.network[-1].parameters(), lr=0.01)


def loading(factor):
    """Puts the first layer back to (a multiple of) what a new module holds, as from a file."""

    def act(module):
        module.network[0].load_state_dict({name: factor * value for name, value in module.before().items()})

    return act


def with_file(module):
    """Lets a module read its first layer, as it is now, later."""
    state = copy.deepcopy(module.network[0].state_dict())
    module.before = lambda: state
    return module


@promises
def test_weights_in_no_optimiser_may_not_be_written_where_the_loss_reaches_them(make, tmp_path):
    with pytest.raises(MisconfigurationException, match="wrote the weights"):
        fit(with_file(HeadOnly(loading(0.99))), tmp_path, make(), max_steps=12)
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_frozen_weights_may_not_come_back_as_they_were(tmp_path):
    with pytest.raises(MisconfigurationException, match="wrote the weights"):
        fit(with_file(HeadOnly(loading(1.0), frozen=True)), tmp_path, Retrain(), max_steps=12)
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


class Thaws(Module):
    """Thaws its first layer, which something may have written while it was frozen."""

    def __init__(self, write):
        super().__init__()
        self.write = write
        self.network[0].requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1 and self.write:
            with torch.no_grad():
                self.network[0].weight.mul_(0.5)
        if self.current_epoch == 2:
            self.network[0].requires_grad_(True)


def test_what_was_written_while_it_was_frozen_may_not_train_later(tmp_path):
    with pytest.raises(MisconfigurationException, match="wrote the weights"):
        fit(Thaws(write=True), tmp_path / "written", Retrain(), max_steps=12)
    fit(Thaws(write=False), tmp_path / "not", Retrain(), max_steps=12)
    assert (tmp_path / "not" / "unlearned" / "weights.safetensors").exists()


class Thaw(BaseFinetuning):
    """Gradual unfreezing as Lightning has it."""

    def freeze_before_training(self, module):
        self.freeze(module.network[0])

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 2:
            self.unfreeze_and_add_param_group(module.network[0], optimizer)


class Backbone(HeadOnly):
    @property
    def backbone(self):
        return self.network[0]


@pytest.mark.parametrize("callback", [Thaw, lambda: BackboneFinetuning(2)], ids=["own", "Lightning's"])
def test_gradual_unfreezing_goes_on_working(callback, tmp_path):
    module = Backbone()
    fit(module, tmp_path, callback(), Retrain(), max_steps=12)
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()
    assert module.network[0].weight.grad is not None


class Averaging(HeadOnly):
    """Averages its weights beside them, in layers that no optimiser has."""

    def __init__(self):
        super().__init__()
        self.average = AveragedModel(self.network)

    def on_train_batch_end(self, *arguments):
        self.average.update_parameters(self.network)


def test_averages_that_no_loss_reaches_may_move(tmp_path):
    anchor = save_weights(Averaging(), tmp_path / "anchor.safetensors")
    fit(Averaging(), tmp_path, Retrain(anchor=anchor), max_steps=8)
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_weights_with_two_names_train_as_any(tmp_path):
    net = network()
    net.append(net[-1])
    net[-1] = nn.Conv2d(2, 2, 1)
    net.append(net[-1])
    fit(Module(net), tmp_path, Retrain(), max_steps=8)
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()
