"""Moments at which weights are not what a certificate says: none is given for them, and no run goes on from them."""

import lightning
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, OnExceptionCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erode.batch import Role
from erode.callbacks import CNS, GradientClipping
from erode.certificates import VerificationError, verify


class Net(lightning.LightningModule):
    def __init__(self, teacher=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.teacher = nn.Linear(4, 1).requires_grad_(False) if teacher else None

    def training_step(self, batch, batch_idx):
        images, targets = batch["retain"]["pair"] if isinstance(batch, dict) else batch
        return (self.net(images).squeeze(1) - targets).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def on_train_batch_end(self, *_):
        if self.teacher is not None:
            with torch.no_grad():
                for own, followed in zip(self.teacher.parameters(), self.net[2].parameters(), strict=True):
                    own.lerp_(followed, 0.5)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


def loader():
    images = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, images.sum(1)), batch_size=8)


def clipping(**changed):
    return GradientClipping(**{"epsilon": 5.0, "delta": 1e-5, "radius": 1.0, "steps": 3, **changed})


def trainer_of(folder, *callbacks):
    return lightning.Trainer(
        max_steps=5, accelerator="cpu", devices=1, logger=False, callbacks=list(callbacks), default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_no_certificate_between_the_last_noise_and_the_hand_over(tmp_path):
    class Early(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step in (3, 5):
                trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    trainer_of(tmp_path, Early(), clipping()).fit(Net(), loader())
    assert torch.load(tmp_path / "3.ckpt", weights_only=True)["state_dict"]["net.1.num_batches_tracked"] == 3
    with pytest.raises(VerificationError, match="hand-over"):
        verify(tmp_path / "3.ckpt")
    verify(tmp_path / "5.ckpt")


def test_no_certificate_for_other_weights_after_the_run(tmp_path):
    model, other = Net(), Net()
    trainer = trainer_of(tmp_path, clipping())
    trainer.fit(model, loader())
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    trainer.validate(other, loader(), verbose=False)
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    verify(tmp_path / "own.ckpt")
    with pytest.raises(VerificationError, match="not those that the run ended with"):
        verify(tmp_path / "other.ckpt")


def test_parameters_that_follow_the_weights_of_the_noisy_phase_are_refused(tmp_path):
    model = Net(teacher=True)
    torch.save(model.state_dict(), tmp_path / "anchor.pt")
    with torch.no_grad():
        next(model.parameters()).add_(1.0)  # what training did
    with pytest.raises(MisconfigurationException, match="not exposed changed in the noisy phase"):
        trainer_of(tmp_path, clipping(anchor=tmp_path / "anchor.pt")).fit(model, loader())
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_nobody_can_resume_between_the_update_and_the_noise(tmp_path):
    class CutShort(GradientClipping):
        def update(self, weights, gradients, anchor):
            super().update(weights, gradients, anchor)
            if self.account().steps == 1:
                raise RuntimeError("power cut")

    operator = CutShort(epsilon=5.0, delta=1e-5, radius=1.0, steps=3)
    with pytest.raises(MisconfigurationException, match="a step was cut short"):
        trainer_of(tmp_path, operator, OnExceptionCheckpoint(tmp_path, "cut")).fit(Net(), loader())
    assert not (tmp_path / "cut.ckpt").exists()


def test_forget_atoms_within_the_batches_of_several_loaders_are_refused(tmp_path):
    def marked(role):
        pairs = [(torch.randn(4), torch.randn(())) for _ in range(16)]
        return DataLoader([{"pair": pair, "role": torch.tensor(int(role))} for pair in pairs], batch_size=8)

    loaders = {"retain": marked(Role.RETAIN), "forget": marked(Role.FORGET)}
    with pytest.raises(MisconfigurationException, match="still serves forget atoms"):
        trainer_of(tmp_path, clipping()).fit(Net(), loaders)


def test_a_newton_step_on_a_network_is_not_compared_with_a_minimiser():
    with pytest.raises(ValueError, match="reference must be one of"):
        CNS(reference="minimiser")


def test_weights_changed_after_a_run_broke_off_have_no_certificate(tmp_path):
    class Breaks(Net):
        def training_step(self, batch, index):
            if self.trainer.global_step == 4:
                raise RuntimeError("out of memory")
            return super().training_step(batch, index)

    model, trainer = Breaks(), trainer_of(tmp_path, clipping())
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(model, loader())
    trainer.save_checkpoint(tmp_path / "broke_off.ckpt")
    verify(tmp_path / "broke_off.ckpt")
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    trainer.save_checkpoint(tmp_path / "later.ckpt")
    with pytest.raises(VerificationError, match="not those that the run ended with"):
        verify(tmp_path / "later.ckpt")
