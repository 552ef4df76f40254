"""Marks that a hook takes away between loader and device were there, and are seen."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module
from torch import nn
from torch.utils.data import DataLoader

from erode.batch import Role
from erode.callbacks import FineTune, GradientClipping, Retrain
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule


class Pairs(Module):
    """Hands on what its loss needs."""

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("val", self.training_step(batch, index))


class Before(Pairs):
    def on_before_batch_transfer(self, batch, index):
        return batch["image"], batch["mask"]


class After(Pairs):
    def on_after_batch_transfer(self, batch, index):
        return batch["image"], batch["mask"]


class Transfers(Pairs):
    def transfer_batch_to_device(self, batch, device, index):
        return batch["image"].to(device), batch["mask"].to(device)


class Theirs(SyntheticDermoscopy):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return super().on_after_batch_transfer(batch, dataloader_idx)


def loader(role):
    item = {"image": torch.randn(3, 8, 8), "mask": torch.zeros(8, 8).long(), "role": torch.full((8, 8), int(role))}
    return DataLoader([item] * 8, batch_size=4)


def fit(module, folder, operator, role, **loaders):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=4, callbacks=[operator], default_root_dir=folder, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(role), **loaders)
    return trainer


@pytest.mark.parametrize("module", [Before, After, Transfers])
@pytest.mark.parametrize("operator", [Retrain, FineTune, lambda: GradientClipping(steps=2)])
def test_forget_atoms_are_refused_although_a_hook_unpacks_them(operator, module, tmp_path):
    with pytest.raises(MisconfigurationException, match="the training loader still serves forget atoms"):
        fit(module(), tmp_path, operator(), Role.FORGET)
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize("module", [Before, After, Transfers])
def test_retained_ones_pass_and_the_module_is_left_as_it_was(module, tmp_path):
    model = module()
    fit(model, tmp_path, Retrain(), Role.RETAIN, val_dataloaders=loader(Role.RETAIN))
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()
    assert "_on_before_batch_transfer" not in vars(model)


class Probe(pl.Callback):
    """Whether something stands between loader and hooks while batches come."""

    def on_train_batch_start(self, trainer, module, batch, index):
        self.between = "_on_before_batch_transfer" in vars(module)


@pytest.mark.parametrize(("kind", "between"), [(SyntheticDermoscopy, False), (Theirs, True)])
def test_nothing_is_put_in_between_where_the_hooks_are_our_own(kind, between, tmp_path):
    data, probe = kind(size=32, train_images=8, val_images=1, test_images=1, batch_size=4), Probe()
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=1, callbacks=[Retrain(), probe], default_root_dir=tmp_path,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(SegmentationModule(num_classes=data.num_classes), datamodule=data)
    assert probe.between == between


class Copies(pl.Callback):
    """Copies the module in the middle of a run, as an average of weights does, and saves it whole."""

    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.copy = copy.deepcopy(module)
        torch.save(module, self.file)


def test_copies_of_the_module_are_their_own(tmp_path):
    """A copy that kept what stands in between would ask the original's hooks, in every fit to come."""
    copies = Copies(tmp_path / "module.pt")
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=2, callbacks=[Retrain(), copies], default_root_dir=tmp_path,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Before(), loader(Role.RETAIN))
    for made in (copies.copy, torch.load(copies.file, weights_only=False)):
        made.on_before_batch_transfer = lambda batch, index, made=made: (made, index)
        assert made._on_before_batch_transfer({}) == (made, 0)
