"""Weights that come back in the middle of a run, or at its end, do not pass for what training made of them."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, fit, promises
from torch import nn

from erode.callbacks import FineTune, Retrain


class Loads(Module):
    """Loads the weights from before in a hook of its own, at the third epoch or its first chance after that."""

    def __init__(self, hook):
        super().__init__()
        self.before = copy.deepcopy(self.network.state_dict())
        self.loaded = False
        own = getattr(self, hook)

        def load(*arguments):
            if not self.loaded and (hook == "configure_optimizers" or self.trainer.current_epoch >= 2):
                self.loaded = hook != "configure_optimizers"
                self.network.load_state_dict(self.before)
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
