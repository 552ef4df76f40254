"""A buffer that no checkpoint holds outlives every reset and all noise: what it learnt may not come back."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, Watch, fit, network, promises
from torch import nn

from erode.callbacks import FineTune, Retrain
from erode.callbacks.guards.unsaved_buffers import UnsavedBuffers


class Teacher(nn.Module):
    """Keeps an average of what goes through it, or a constant."""

    def __init__(self, moves=True, resets=False):
        super().__init__()
        self.register_buffer("average", torch.zeros(2), persistent=False)
        self.moves = moves
        if resets:
            self.reset_parameters = lambda: self.average.zero_()

    def forward(self, logits):
        if self.training and self.moves:
            self.average = 0.9 * self.average + 0.1 * logits.detach().mean((0, 2, 3))
        return logits + self.average[:, None, None]


def module(**settings):
    return Module(nn.Sequential(*network(norm=False), Teacher(**settings)))


def with_memory(folder, operator, **settings):
    taught = module(**settings)
    fit(taught, folder / "taught", max_steps=4)
    fit(taught, folder, operator)
    return folder / "unlearned" / "weights.safetensors"


@promises
def test_one_that_moves_is_refused(make, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"the buffer network\.3\.average"):
        with_memory(tmp_path, make())
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


@promises
def test_a_constant_may_stay(make, tmp_path):
    assert with_memory(tmp_path, make(), moves=False).exists()


def test_one_that_a_reset_reaches_may_move_in_retraining(tmp_path):
    assert with_memory(tmp_path, Retrain(), resets=True).exists()


def test_who_promises_nothing_may_keep_what_he_likes(tmp_path):
    assert with_memory(tmp_path, FineTune()).exists()


def test_one_that_moves_at_each_step_is_refused_at_the_second(tmp_path):
    taught, seen = module(), Watch()
    with pytest.raises(MisconfigurationException, match="average"):
        fit(taught, tmp_path, Retrain(), seen)
    assert len(seen.names) == 1


def test_nan_that_stays_has_not_changed():
    layer, guard = Teacher(), UnsavedBuffers("Retrain")
    layer.average = torch.tensor([torch.nan, 1.0])
    guard.note(layer)
    guard.check(layer)
    layer.average = torch.tensor([torch.nan, 2.0])
    with pytest.raises(MisconfigurationException, match="average"):
        guard.check(layer)


def test_one_that_vanished_or_grew_has_changed():
    layer, guard = Teacher(), UnsavedBuffers("Retrain")
    guard.note(layer)
    guard.check(layer)
    layer.average = torch.zeros(3)
    with pytest.raises(MisconfigurationException, match="average"):
        guard.check(layer)
    guard.note(layer)
    del layer.average
    with pytest.raises(MisconfigurationException, match="average"):
        guard.check(layer)
    guard.forget()
    guard.check(layer)
