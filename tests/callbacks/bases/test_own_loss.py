"""Whose loss is minimised on what is retained: the module's, where its batches are ours."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from two_loaders import KEYS, TheirModule, squares, trainer_for

from erode.callbacks import NegGradPlus, Retrain, Scrub
from erode.callbacks.bases.own_loss import label_loss
from erode.callbacks.batches.atom_batches import BatchKeys
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.losses import RoleLoss

OURS = BatchKeys("image", "mask", "coarse", "role")


def batch_of_ours():
    data = SyntheticDermoscopy(size=32, train_images=40, val_images=4, test_images=4, task="binary", batch_size=4)
    data.setup("fit")
    data.serve("fine_subset")
    return next(iter(data.train_dataloader()))


def test_a_module_of_ours_says_its_own_loss():
    module, batch = SegmentationModule(num_classes=2), batch_of_ours()
    output = module(batch["image"])
    found = label_loss(pl.Trainer(logger=False), module, output, OURS.retained(batch), batch, OURS)
    assert torch.equal(found, RoleLoss()(output, batch))


class Deaf(TheirModule):
    """Says its loss for batches that it does not know the operator's keys of."""

    def loss_of(self, output, batch):
        raise AssertionError("asked")


@pytest.mark.parametrize("role", [None, 3])
def test_other_keys_mean_cross_entropy_of_what_they_retain(role):
    """A loss of the module's knows nothing of keys and roles that the operator was given."""
    image, fine, coarse = squares(4, 1).tensors
    roles = torch.zeros_like(fine)
    roles[:, :4] = 1  # to be forgotten
    batch, keys, module = (image, fine, coarse, roles), BatchKeys(0, 1, 2, role), Deaf()
    found = label_loss(pl.Trainer(logger=False), module, module(image), keys.retained(batch), batch, keys)
    kept = torch.ones_like(fine, dtype=torch.bool) if role is None else roles == 0
    logits = module(image).movedim(1, -1)[kept]
    torch.testing.assert_close(found, nn.functional.cross_entropy(logits, fine[kept]))


@pytest.mark.parametrize("operator", [NegGradPlus(**KEYS), Scrub(msteps=1, max_phase=1, min_phase=2, **KEYS)])
def test_our_module_learns_from_batches_of_others(operator, tmp_path):
    module = SegmentationModule(num_classes=2, in_channels=1)
    image = torch.randn(4, 1, 32, 32)
    mask = torch.zeros(4, 32, 32, dtype=torch.long)
    mask[:, 8:20, 8:20] = 1
    loader = DataLoader(TensorDataset(image, mask, mask), 2)
    trainer_for(tmp_path, operator, max_steps=6).fit(module, {"retain": loader, "forget": loader})
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class Checkpointed(TheirModule):
    """Computes its activations again in the backward pass."""

    reentrant = None

    def forward(self, image):
        if self.reentrant is None or not torch.is_grad_enabled():
            return self.body(image)
        return checkpoint(self.body, image.requires_grad_(), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("operator", [NegGradPlus, Scrub])
def test_activation_checkpointing_changes_nothing(operator, reentrant, tmp_path):
    """What is computed again comes after the forget images, and must not leave them in running statistics."""
    loaders = {"retain": DataLoader(squares(8, 1), 4), "forget": DataLoader(squares(12, 2), 4)}
    phases = {} if operator is NegGradPlus else {"msteps": 1, "max_phase": 1, "min_phase": 2}
    plain, checkpointed = Checkpointed(), Checkpointed()
    checkpointed.reentrant = reentrant
    for module in (plain, checkpointed):
        folder = tmp_path / str(module.reentrant)
        trainer_for(folder, operator(**KEYS, **phases), max_steps=6).fit(module, loaders)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(checkpointed.state_dict()[name], value, msg=name)


class Fails(TheirModule):
    """A training that breaks off, as for want of memory."""

    def forward(self, image):
        if self.training and self.trainer.global_step == 1:
            raise RuntimeError("out of memory")
        return super().forward(image)


@pytest.mark.parametrize("operator", [NegGradPlus, Scrub])
def test_a_run_that_broke_off_leaves_the_module_and_the_data_as_they_were(operator, tmp_path):
    """Lightning calls no teardown then, and the next run would train by this loss."""
    module = Fails()
    phases = {} if operator is NegGradPlus else {"msteps": 1, "max_phase": 1, "min_phase": 2}
    momenta = [layer.momentum for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer_for(tmp_path, operator(**KEYS, **phases), max_steps=6).fit(
            module, {"retain": DataLoader(squares(8, 1), 4), "forget": DataLoader(squares(12, 2), 4)}
        )
    assert "training_step" not in vars(module)
    assert [layer.momentum for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)] == momenta


def test_the_data_serve_their_view_again_after_a_run_that_broke_off(tmp_path):
    class Ours(SegmentationModule):
        def forward(self, image):
            raise RuntimeError("out of memory")

    source = SyntheticDermoscopy(size=32, train_images=16, val_images=4, test_images=4, task="binary", batch_size=4)
    source.serve("coarse")
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer_for(tmp_path, NegGradPlus(), max_steps=2, num_sanity_val_steps=0).fit(
            Ours(num_classes=2), datamodule=source
        )
    assert source.view == "coarse"


def test_a_loss_that_was_left_behind_is_refused(tmp_path):
    """Where a process was stopped so that nothing could be put back, and went on."""
    module = TheirModule()
    left = lambda batch, index: None  # noqa: E731
    left.of_operator = "NegGradPlus"
    module.training_step = left
    with pytest.raises(MisconfigurationException, match="still trains by the loss of NegGradPlus"):
        trainer_for(tmp_path, Retrain(), max_steps=2).fit(module, DataLoader(squares(8, 1), 4))
