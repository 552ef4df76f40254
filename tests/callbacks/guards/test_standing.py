"""A run goes on only from weights that are its own, and what it refuses leaves no checkpoint."""

import copy
import json
import signal

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from noisy_runs import Module, Watch, fit, promises
from torch import nn

from erode.callbacks import EUk, GradientClipping, Retrain
from erode.certificates import VerificationError, verify
from erode.weights import save_weights, weights_digest


class Restore(pl.Callback):
    """Keeps the weights from before, where no look at attributes finds them; loads them after a step, or at the end."""

    def __init__(self, at, then=None):
        self.at, self.then = at, then

    def setup(self, trainer, module, stage):
        before = copy.deepcopy(module.state_dict())
        self.restore = lambda: module.load_state_dict(before)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == self.at:
            self.restore()
            if self.then is not None:
                raise self.then

    def on_train_end(self, trainer, module):
        if self.at == "end":
            self.restore()


def saving(trainer_fit, folder, *callbacks, **options):
    """A fit that may save."""
    return trainer_fit(Module(), folder, *callbacks, enable_checkpointing=True, **options)


def record(folder):
    return json.loads((folder / "unlearned" / "unlearning.json").read_text())


# What is refused leaves no checkpoint ----------------------------------------------------------------------------


@promises
def test_a_checkpoint_of_restored_weights_is_not_saved(make, tmp_path):
    """It would be saved before the step that looks, with a certificate, and resuming would go on from it."""
    every_step = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    with pytest.raises(MisconfigurationException, match="something else than an optimiser wrote the weights"):
        saving(fit, tmp_path, Restore(4), make(), every_step)
    assert (tmp_path / "step=3.ckpt").exists()
    assert not (tmp_path / "step=4.ckpt").exists()


@promises
def test_nor_where_the_run_breaks_off_before_a_step_could_look(make, tmp_path):
    callbacks = Restore(4, RuntimeError("power cut")), make(), OnExceptionCheckpoint(tmp_path, "cut")
    with pytest.raises(MisconfigurationException, match="something else than an optimiser wrote the weights"):
        saving(fit, tmp_path, *callbacks)
    assert not (tmp_path / "cut.ckpt").exists()


def test_nor_later_of_a_run_that_was_refused(tmp_path):
    module, kept = Module(), []

    class Keep(pl.Callback):
        def setup(self, trainer, module, stage):
            kept.append(trainer)

    with pytest.raises(MisconfigurationException):
        fit(module, tmp_path, Keep(), Restore(4), Retrain())
    with pytest.raises(MisconfigurationException, match="something else than an optimiser wrote the weights"):
        kept[0].save_checkpoint(tmp_path / "later.ckpt")


def test_weights_that_came_after_the_release_have_no_certificate_where_the_run_then_breaks_off(tmp_path):
    class Late(pl.Callback):
        def on_fit_end(self, trainer, module):
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        saving(fit, tmp_path, GradientClipping(steps=2), Restore("end"), Late(), OnExceptionCheckpoint(tmp_path, "cut"))
    with pytest.raises(VerificationError, match="not those that the run ended with"):
        verify(tmp_path / "cut.ckpt")


# What may be resumed ---------------------------------------------------------------------------------------------


@pytest.fixture
def keys():
    """Lightning ignores Ctrl+C from the first one on."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("cut", [1, 4])
@promises
def test_a_run_that_was_interrupted_goes_on_to_its_promise(make, cut, tmp_path):
    def interrupt(trainer, module):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        saving(fit, tmp_path, make(), Watch(cut, interrupt), OnExceptionCheckpoint(tmp_path, "cut"))
    assert not record(tmp_path)["completed"]
    fit(Module(), tmp_path, make(), ckpt_path=tmp_path / "cut.ckpt")
    assert record(tmp_path)["completed"]
    if record(tmp_path)["guarantee"] == "certified":
        verify(tmp_path / "unlearned" / "certificate.json", tmp_path / "unlearned" / "weights.safetensors")


@pytest.mark.usefixtures("keys")
def test_a_resumed_run_that_is_refused_leaves_its_checkpoint_as_good_as_it_was(tmp_path):
    cut = tmp_path / "cut.ckpt"
    fit(Module(), tmp_path / "first", Retrain(), max_steps=2).save_checkpoint(cut)
    with pytest.raises(MisconfigurationException, match="another settings"):
        saving(fit, tmp_path, Retrain(only_fine=True), OnExceptionCheckpoint(tmp_path, "cut"), ckpt_path=cut)
    fit(Module(), tmp_path, Retrain(), ckpt_path=cut)
    assert record(tmp_path)["completed"]


def test_weights_changed_after_the_end_are_not_gone_on_from(tmp_path):
    module = Module()
    trainer = fit(module, tmp_path / "first", Retrain(), max_steps=2)
    with torch.no_grad():
        next(module.parameters()).add_(1.0)
    trainer.save_checkpoint(tmp_path / "changed.ckpt")
    with pytest.raises(MisconfigurationException, match=r"changed.ckpt cannot be resumed"):
        fit(Module(), tmp_path, Retrain(), ckpt_path=tmp_path / "changed.ckpt")


@pytest.mark.parametrize("broken", ["missing", "of another network"])
def test_a_run_that_broke_off_before_it_had_replaced_the_weights_is_not_resumed(broken, tmp_path):
    anchor, module = tmp_path / "anchor.safetensors", Module()
    if broken != "missing":
        save_weights(nn.Linear(3, 3), anchor)
    with pytest.raises((FileNotFoundError, ValueError)):
        fit(module, tmp_path, Retrain(anchor), OnExceptionCheckpoint(tmp_path, "cut"), enable_checkpointing=True)
    save_weights(Module(), anchor)
    with pytest.raises(MisconfigurationException, match="before Retrain had prepared the weights"):
        fit(Module(), tmp_path, Retrain(anchor), ckpt_path=tmp_path / "cut.ckpt")
    content = torch.load(tmp_path / "cut.ckpt", weights_only=True)
    torch.save({**content, "erode_weights": weights_digest(module)}, tmp_path / "cut.ckpt")
    with pytest.raises(MisconfigurationException, match="before Retrain had replaced the trained weights"):
        fit(Module(), tmp_path, Retrain(anchor), ckpt_path=tmp_path / "cut.ckpt")


def test_nor_is_that_of_an_operator_that_promises_nothing(tmp_path):
    class OneOptimizer(Module):
        """Its optimiser is made once, which EU-k finds out when it has begun."""

        def configure_optimizers(self):
            self.made = getattr(self, "made", None) or torch.optim.SGD(self.parameters(), 0.01)
            return self.made

    with pytest.raises(MisconfigurationException, match="used before"):
        fit(OneOptimizer(), tmp_path, EUk(1), OnExceptionCheckpoint(tmp_path, "cut"), enable_checkpointing=True)
    with pytest.raises(MisconfigurationException, match="before EUk had prepared the weights"):
        fit(Module(), tmp_path, EUk(1), ckpt_path=tmp_path / "cut.ckpt")


def test_a_buffer_that_counted_images_is_not_gone_on_from(tmp_path):
    """Retrain would not release it, and resumed it would begin with what was counted."""

    class Counts(Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros((), dtype=torch.long))

        def training_step(self, batch, index):
            self.count += self.trainer.global_step < 2
            return super().training_step(batch, index)

    fit(Counts(), tmp_path / "first", Retrain(), max_steps=3).save_checkpoint(tmp_path / "counted.ckpt")
    with pytest.raises(MisconfigurationException, match="cannot be resumed"):
        fit(Counts(), tmp_path, Retrain(), ckpt_path=tmp_path / "counted.ckpt")
