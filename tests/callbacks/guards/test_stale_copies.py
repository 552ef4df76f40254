"""Copies of the weights from before, in plain attributes, pull training back to them: they are refused."""

import copy
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torchmetrics
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, fit, network, promises
from torch import nn

from erode.callbacks import (
    FineTune,
    GradientClipping,
    ModelClipping,
    PredictionGallery,
    Retrain,
    SpuriousInformationMonitor,
)
from erode.weights import save_weights


class Pulls(Module):
    """L2-SP, FedProx and EWC: a penalty towards the weights that training started from, copied in a hook."""

    def __init__(self, hook, wrap=lambda start: start):
        super().__init__()
        self.hook, self.wrap, self.start = hook, wrap, None

    def setup(self, stage):
        self._copy("setup")

    def on_train_start(self):
        self._copy("on_train_start")

    def _copy(self, hook):
        if hook == self.hook:
            self.start = self.wrap({name: p.detach().clone() for name, p in self.named_parameters()})


class Holder:
    def __init__(self, start):
        self.start = start


WRAPS = {
    "names": lambda start: start,
    "list": lambda start: list(start.values()),
    "tuple of dicts": lambda start: (start, {}),
    "object": Holder,
}


class Cut(pl.Callback):
    """Saves a checkpoint after three steps, as if the run were cut short there."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == 3:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "cut.ckpt")


@promises
def test_a_resumed_run_refuses_a_copy_of_what_the_module_held_before(make, tmp_path):
    """As in a process that loads the original weights, copies them, and goes on from a checkpoint."""
    original = Module()
    fit(copy.deepcopy(original), tmp_path / "first", make(), Cut())
    again = Pulls("setup")
    again.load_state_dict(original.state_dict())
    checkpoint = tmp_path / "first" / "cut.ckpt"
    with pytest.raises(MisconfigurationException, match=r"start keeps a copy of network\.0\.weight from before"):
        fit(again, tmp_path / "resumed", make(), ckpt_path=checkpoint)
    fit(original, tmp_path / "honest", make(), ckpt_path=checkpoint)
    assert (tmp_path / "honest" / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
@promises
def test_a_copy_that_was_made_before_is_refused_at_once(make, wrap, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"start keeps a copy of network\.0\.weight from before"):
        fit(Pulls("setup", wrap), tmp_path, make())
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize("kind", [GradientClipping, ModelClipping])
def test_a_copy_of_weights_that_have_no_noise_yet_is_refused_at_the_hand_over(kind, tmp_path):
    with pytest.raises(MisconfigurationException, match="start keeps a copy of"):
        fit(Pulls("on_train_start"), tmp_path, kind(steps=2))
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_a_copy_of_weights_that_are_clean_is_fine(tmp_path):
    fit(Pulls("on_train_start"), tmp_path / "Retrain", Retrain())
    fit(Pulls("setup"), tmp_path / "FineTune", FineTune())
    for name in ("Retrain", "FineTune"):
        assert (tmp_path / name / "unlearned" / "weights.safetensors").exists()


class Teaches(Module):
    """A mean teacher that is no part of the module."""

    def on_train_start(self):
        self.teacher = (copy.deepcopy(self.network),)


def test_a_teacher_of_the_noisy_phase_is_refused_at_the_hand_over(tmp_path):
    with pytest.raises(MisconfigurationException, match="teacher holds a Sequential that the module does not know"):
        fit(Teaches(), tmp_path / "noisy", GradientClipping(steps=2))
    fit(Teaches(), tmp_path / "clean", Retrain())
    assert (tmp_path / "clean" / "unlearned" / "weights.safetensors").exists()


class Keeper(pl.Callback):
    def setup(self, trainer, module, stage):
        self.model = copy.deepcopy(module.network)


@promises
def test_a_callback_that_keeps_them_is_refused(make, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"Keeper\.model holds a Sequential that the module"):
        fit(Module(), tmp_path, Keeper(), make())


class Buffered(Module):
    def setup(self, stage):
        self.register_buffer("start", self.network[0].weight.detach().clone(), persistent=False)


@promises
def test_a_buffer_that_is_not_saved_is_no_hiding_place(make, tmp_path):
    with pytest.raises(MisconfigurationException, match="start keeps a copy of"):
        fit(Buffered(), tmp_path, make())


class Ordinary(Module):
    """What honest modules hold: metrics, lists of their own layers and weights, constants of a weight's shape."""

    def __init__(self, pretrained=None):
        super().__init__(network())
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=2)
        self.blocks = [self.network[0], self.network[-1]]
        self.watched = [p.detach() for p in self.parameters()]
        self.constants = [torch.zeros(8), torch.ones(8), torch.zeros_like(self.network[0].weight)]
        self.norm = nn.BatchNorm2d(8)
        self.norm_start = copy.deepcopy(self.norm.state_dict())
        self.pretrained = pretrained

    def training_step(self, batch, index):
        self.accuracy(self.network(batch["image"]), batch["mask"])
        return super().training_step(batch, index)


@promises
def test_what_honest_modules_hold_is_none_of_it(make, tmp_path):
    fit(Ordinary(), tmp_path, make())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize("kind", [Retrain, GradientClipping])
def test_a_penalty_towards_the_anchor_is_fine(kind, tmp_path):
    """A layer of the trained weights that is still the anchor's does not make a copy of the anchor suspect."""
    module = Ordinary()
    anchor = save_weights(module, tmp_path / "anchor.safetensors")
    module.pretrained = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        module.network[-1].weight.add_(1)
    steps = {} if kind is Retrain else {"steps": 2}
    fit(module, tmp_path, kind(anchor=anchor, **steps))
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


@promises
def test_our_callbacks_that_show_what_became_of_the_start_may_keep_it(make, tmp_path):
    fit(Module(), tmp_path, make(), SpuriousInformationMonitor(2, artefact_key=None), PredictionGallery())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()
