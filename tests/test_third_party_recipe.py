"""Published training recipes become certified by one more callback; nothing else in them changes.

The first is MONAI's tutorial ``spleen_segmentation_3d_lightning``, the second Lightning's example
``semantic_segmentation``, both rebuilt as their authors wrote them, on small synthetic volumes and images.
"""

import json

import lightning.pytorch as pl
import nibabel
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from monai.data import CacheDataset, decollate_batch, list_data_collate
from monai.inferers import sliding_window_inference
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.layers import Norm
from monai.networks.nets import UNet
from monai.transforms import (
    AsDiscrete,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureType,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    ScaleIntensityRanged,
    Spacingd,
)
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import GradientClipping
from erode.certificates import VerificationError, verify
from erode.weights import save_weights

# MONAI: spleen_segmentation_3d_lightning -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """CT-like volumes with a bright ball, as NIfTI files with a spacing of their own."""
    folder, rng, files = tmp_path_factory.mktemp("Task09_Spleen"), np.random.default_rng(0), []
    for index in range(4):
        grid = np.stack(np.meshgrid(*map(np.arange, (36, 36, 24)), indexing="ij"), -1)
        label = (((grid - rng.uniform(12, 20, 3)) ** 2).sum(-1) < 49).astype(np.uint8)
        image = (180.0 * label - 40 + rng.normal(0, 20, label.shape)).astype(np.float32)
        paths = {kind: folder / f"{kind}{index}.nii.gz" for kind in ("image", "label")}
        for kind, values in (("image", image), ("label", label)):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, -1.5, 2.0, 1.0])), paths[kind])
        files.append({kind: str(path) for kind, path in paths.items()})
    return files


class Net(pl.LightningModule):
    """The tutorial's module, with smaller numbers."""

    def __init__(self, files, learning_rate=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self._model = UNet(
            spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2,
            norm=Norm.BATCH,
        )  # fmt: skip
        self.loss_function = DiceLoss(to_onehot_y=True, softmax=True)
        self.post_pred = Compose([EnsureType("tensor", device="cpu"), AsDiscrete(argmax=True, to_onehot=2)])
        self.post_label = Compose([EnsureType("tensor", device="cpu"), AsDiscrete(to_onehot=2)])
        self.dice_metric = DiceMetric(include_background=False, reduction="mean", get_not_nans=False)
        self.best_val_dice, self.best_val_epoch = 0, 0
        self.validation_step_outputs = []

    def forward(self, x):
        return self._model(x)

    def prepare_data(self):
        keys = ["image", "label"]
        load = [
            LoadImaged(keys=keys),
            EnsureChannelFirstd(keys=keys),
            Orientationd(keys=keys, axcodes="RAS", labels=None),
            Spacingd(keys=keys, pixdim=(1.5, 1.5, 2.0), mode=("bilinear", "nearest")),
            ScaleIntensityRanged(keys=["image"], a_min=-57, a_max=164, b_min=0.0, b_max=1.0, clip=True),
            CropForegroundd(keys=keys, source_key="image", allow_smaller=True),
        ]
        crop = RandCropByPosNegLabeld(
            keys=keys, label_key="label", spatial_size=(16, 16, 16), pos=1, neg=1, num_samples=4, image_key="image",
            image_threshold=0,
        )  # fmt: skip
        files = self.hparams.files
        self.train_ds = CacheDataset(files[:-1], Compose([*load, crop]), cache_rate=1.0, num_workers=0, progress=False)
        self.val_ds = CacheDataset(files[-1:], Compose(load), cache_rate=1.0, num_workers=0, progress=False)

    def train_dataloader(self):
        return DataLoader(self.train_ds, batch_size=1, shuffle=True, collate_fn=list_data_collate)

    def val_dataloader(self):
        return DataLoader(self.val_ds, batch_size=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self._model.parameters(), self.hparams.learning_rate)

    def training_step(self, batch, batch_idx):
        images, labels = batch["image"], batch["label"]
        loss = self.loss_function(self.forward(images), labels)
        self.log("train_loss", loss.item())
        return {"loss": loss, "log": {"train_loss": loss.item()}}

    def validation_step(self, batch, batch_idx):
        images, labels = batch["image"], batch["label"]
        outputs = sliding_window_inference(images, (16, 16, 16), 4, self.forward)
        loss = self.loss_function(outputs, labels)
        outputs = [self.post_pred(i) for i in decollate_batch(outputs)]
        labels = [self.post_label(i) for i in decollate_batch(labels)]
        self.dice_metric(y_pred=outputs, y=labels)
        d = {"val_loss": loss, "val_number": len(outputs)}
        self.validation_step_outputs.append(d)
        return d

    def on_validation_epoch_end(self):
        mean_val_dice = self.dice_metric.aggregate().item()
        self.dice_metric.reset()
        self.log("val_dice", mean_val_dice)
        if mean_val_dice > self.best_val_dice:
            self.best_val_dice, self.best_val_epoch = mean_val_dice, self.current_epoch
        self.validation_step_outputs.clear()


def train(module, folder, *more, max_epochs=15, patience=100, **settings):
    """The tutorial's Trainer, with the callbacks that people add to it."""
    checkpoint = ModelCheckpoint(
        folder / "checkpoints", filename="best", monitor="val_dice", mode="max", save_last=True
    )
    stop = EarlyStopping("val_dice", mode="max", patience=patience, min_delta=0.01)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=max_epochs, logger=CSVLogger(folder, name="logs"),
        callbacks=[checkpoint, stop, LearningRateMonitor(), *more], num_sanity_val_steps=1, log_every_n_steps=1,
        default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(module)
    return trainer


def released(folder):
    (certificate,) = folder.glob("logs/*/unlearned/certificate.json")
    return certificate.parent


def test_the_spleen_tutorial_becomes_certified_by_one_line(volumes, tmp_path):
    torch.manual_seed(0)
    module = Net(volumes)
    train(module, tmp_path / "original")
    learned = module.best_val_dice
    trainer = train(module, tmp_path / "unlearning", GradientClipping())  # the one line
    folder = released(tmp_path / "unlearning")
    verify(folder / "certificate.json", folder / "weights.safetensors")
    content = json.loads((folder / "certificate.json").read_text())
    assert content["exposed"]["d"] == sum(p.numel() for p in module.parameters())
    (scores,) = trainer.validate(module, verbose=False)
    assert learned > 0.5
    assert scores["val_dice"] > 0.5
    last = tmp_path / "unlearning" / "checkpoints" / "last.ckpt"
    verify(last)
    again = Net.load_from_checkpoint(last)
    assert again.hparams.learning_rate == module.hparams.learning_rate


class Fading(Net):
    """The original model scores best, and every step lowers the score."""

    def on_validation_epoch_end(self):
        self.dice_metric.reset()  # a value logged beside the module's own would be averaged with it
        self.log("val_dice", 1 / (1 + self.global_step))


def test_the_best_checkpoint_is_not_one_of_the_noisy_phase(volumes, tmp_path):
    """Three steps an epoch: the first is of the noisy phase and scores best, the others come after it."""
    with pytest.warns(UserWarning, match=r"best\.ckpt is of the noisy phase"):
        train(Fading(volumes), tmp_path, GradientClipping(steps=6), max_epochs=3)
    verify(tmp_path / "checkpoints" / "best.ckpt")
    verify(released(tmp_path) / "certificate.json", released(tmp_path) / "weights.safetensors")


def test_a_checkpoint_of_the_noisy_phase_is_refused(volumes, tmp_path):
    train(Fading(volumes), tmp_path, GradientClipping(steps=15), max_epochs=6, patience=1)
    with pytest.raises(VerificationError, match="ended after 3 of 15 certified steps"):
        verify(tmp_path / "checkpoints" / "best.ckpt")


def test_early_stopping_within_the_noisy_phase_releases_nothing_and_says_so(volumes, tmp_path):
    train(Net(volumes), tmp_path, GradientClipping(steps=15), max_epochs=6, patience=1)
    content = json.loads((released(tmp_path) / "certificate.json").read_text())
    assert content["issued"] is False
    assert "of 15 certified steps" in content["why_not"]
    assert not (released(tmp_path) / "weights.safetensors").exists()


# Lightning: semantic_segmentation ------------------------------------------------------------------------------


class DoubleConv(nn.Sequential):
    def __init__(self, in_ch, out_ch):
        layers = [[nn.Conv2d(i, out_ch, 3, padding=1), nn.BatchNorm2d(out_ch), nn.ReLU(inplace=True)]
                  for i in (in_ch, out_ch)]  # fmt: skip
        super().__init__(*layers[0], *layers[1])


class TheirUNet(nn.Module):
    def __init__(self, num_classes=3, features=8):
        super().__init__()
        self.first = DoubleConv(3, features)
        self.down = nn.Sequential(nn.MaxPool2d(2), DoubleConv(features, 2 * features))
        self.upsample = nn.ConvTranspose2d(2 * features, features, 2, stride=2)
        self.up = DoubleConv(2 * features, features)
        self.last = nn.Conv2d(features, num_classes, 1)

    def forward(self, x):
        skip = self.first(x)
        return self.last(self.up(torch.cat([skip, self.upsample(self.down(skip))], 1)))


class SegModel(pl.LightningModule):
    """The example's module; its loss may carry class weights, as many have."""

    def __init__(self, lr=0.05, class_weights=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = TheirUNet()
        self.criterion = nn.CrossEntropyLoss(
            None if class_weights is None else torch.tensor(class_weights), ignore_index=250
        )

    def training_step(self, batch, batch_nb):
        img, mask = batch
        loss = self.criterion(self.net(img.float()), mask.long())
        self.log("train_loss", loss, on_step=True)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        img, mask = batch
        loss = self.criterion(self.net(img.float()), mask.long())
        self.log("val_loss", loss, prog_bar=True)
        return {"val_loss": loss}

    def configure_optimizers(self):
        opt = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=2)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def streets():
    generator = torch.Generator().manual_seed(0)
    masks = [(torch.rand(4, 4, generator=generator) * 3).long().repeat_interleave(8, 0).repeat_interleave(8, 1)
             for _ in range(12)]  # fmt: skip
    images = [torch.eye(3)[mask].permute(2, 0, 1) + 0.1 * torch.randn(3, 32, 32, generator=generator) for mask in masks]
    for mask in masks:
        mask[0] = 250  # not labelled
    return DataLoader(list(zip(images, masks, strict=True)), batch_size=4)


def train_streets(module, folder, *callbacks):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=12, logger=CSVLogger(folder, name="logs"), log_every_n_steps=1,
        callbacks=[ModelCheckpoint(folder), LearningRateMonitor(), *callbacks], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, streets(), streets())
    return trainer


def test_lightnings_segmentation_example_becomes_certified_by_one_line(tmp_path):
    torch.manual_seed(0)
    module = SegModel()
    train_streets(module, tmp_path / "original")
    trainer = train_streets(module, tmp_path / "unlearning", GradientClipping())
    folder = released(tmp_path / "unlearning")
    verify(folder / "certificate.json", folder / "weights.safetensors")
    assert [type(optimizer).__name__ for optimizer in trainer.optimizers] == ["SGD"]
    (scores,) = trainer.validate(module, streets(), verbose=False)
    assert scores["val_loss"] < 0.5


def test_class_weights_in_the_loss_need_an_anchor_that_has_them(tmp_path):
    """They travel in the weights, and may have been counted on the forget set: whoever says they were not, says so."""
    weights = [0.2, 0.4, 0.4]
    with pytest.raises(MisconfigurationException, match=r"criterion\.weight.*anchor=FILE saved from a fresh model"):
        train_streets(SegModel(class_weights=weights), tmp_path / "refused", GradientClipping())
    fresh = save_weights(SegModel(class_weights=weights), tmp_path / "fresh.safetensors")
    train_streets(SegModel(class_weights=weights), tmp_path / "anchored", GradientClipping(anchor=fresh))
    folder = released(tmp_path / "anchored")
    verify(folder / "certificate.json", folder / "weights.safetensors")
