"""Pictures of a stranger's project: the chosen images, in files and in loggers."""

import time

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.colors import to_rgb
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erode.callbacks.gallery import PredictionGallery
from erode.pictures import (
    ARTEFACT_COLOUR,
    Sample,
    class_colour,
    display_image,
    flatten_volume,
    gallery_figure,
    rgb_array,
)


class TheirModule(pl.LightningModule):
    """Predicts class 1 where the scan is above its bias."""

    def __init__(self, dims=2):
        super().__init__()
        self.layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, 2, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([-1.0, 1.0]).view_as(self.layer.weight))
            self.layer.bias.zero_()

    def forward(self, scan):
        return self.layer(scan)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Flip(pl.Callback):
    """Stands for an operator: predictions before and after are complements."""

    def on_fit_start(self, trainer, module):
        with torch.no_grad():
            module.layer.weight.neg_()


class Seen(PredictionGallery):
    """Keeps the samples it drew."""

    def _predict(self, trainer, module, chosen):
        self.samples = super()._predict(trainer, module, chosen)
        return self.samples


def fit(tmp_path, *callbacks, spatial=(16, 16), logger=False):
    generator = torch.Generator().manual_seed(0)
    scan = torch.randn(6, 1, *spatial, generator=generator)
    fine = (scan[:, 0] > 1).long()
    ink = torch.zeros(6, *spatial, dtype=torch.uint8)
    ink[3, ..., :4], ink[5] = 1, 255  # image 3 has an artefact, image 5 was not annotated
    loader = DataLoader(TensorDataset(scan, fine, ink), 4)
    torch.manual_seed(0)
    module = TheirModule(len(spatial))
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=2,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loader, loader)
    return scan


@pytest.mark.parametrize("gallery_first", [True, False])
def test_before_is_before_the_operator_and_artefacts_come_first(tmp_path, gallery_first):
    gallery = Seen(3, image_key=0, fine_key=1, coarse_key=None, artefact_key=2)
    callbacks = [gallery, Flip()] if gallery_first else [Flip(), gallery]
    scan = fit(tmp_path, *callbacks)
    for sample, index in zip(gallery.samples, (3, 0, 1), strict=True):
        assert np.array_equal(sample.image, scan[index].numpy())
        assert np.array_equal(sample.masks["before"], scan[index, 0].numpy() > 0)
        assert np.array_equal(sample.masks["after"], scan[index, 0].numpy() < 0)
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.width > 900


def test_wandb_offline_run_holds_images_and_masks(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(offline=True, save_dir=tmp_path)
    fit(tmp_path, PredictionGallery(2, ["background", "naevus"], 0, 1, None, 2), Flip(), logger=logger)
    logger.experiment.finish()
    media = next(tmp_path.glob("wandb/offline-run-*/files/media"))
    assert len(list(media.glob("images/gallery*.png"))) == 2
    masks = list(media.glob("images/mask/*.mask.png"))
    assert len(masks) == 2 * 3  # fine, before, after
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30  # another process writes it
    while b"naevus" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"naevus" in log.read_bytes()


def test_tensorboard_event_file_holds_the_picture(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, PredictionGallery(2, None, 0, 1, None, 2), logger=logger)
    events = accumulator.EventAccumulator(logger.log_dir).Reload()
    (image,) = events.Images("gallery")
    assert image.width > 900


def test_volumes_are_drawn_by_their_largest_slice(tmp_path):
    gallery = Seen(1, None, 0, 1, None, None)
    fit(tmp_path, gallery, spatial=(4, 12, 12))
    (sample,) = gallery.samples
    assert sample.masks["before"].shape == (4, 12, 12)
    flat = flatten_volume(sample)
    assert flat.masks["fine mask"].sum() == sample.masks["fine mask"].sum((1, 2)).max()
    assert (tmp_path / "gallery.png").exists()


def test_largest_slice_is_the_same_for_image_masks_and_artefact():
    grid = np.arange(3)[:, None, None] * np.ones((3, 4, 4), int)
    fine = (grid == 2).astype(int)
    flat = flatten_volume(Sample(grid[None].astype(float), {"fine": fine, "other": grid}, "fine", grid))
    assert (flat.image == 2).all()
    assert (flat.masks["other"] == 2).all()
    assert (flat.artefact == 2).all()


@pytest.mark.parametrize("scale", [(0.2, 0.5), (-1000.0, 3000.0), (0.0, 0.0)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_image_can_be_shown(scale, channels):
    image = scale[0] + scale[1] * np.random.default_rng(0).random((channels, 5, 7))
    shown = display_image(image)
    assert shown.shape == (5, 7, 3)
    assert shown.min() >= 0
    assert shown.max() <= 1
    if scale == (0.2, 0.5) and channels == 3:
        assert np.array_equal(shown, image.transpose(1, 2, 0))


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="num_images"):
        PredictionGallery(0)


@pytest.mark.parametrize("side", [16, 128])
def test_outlines_are_lines_whatever_the_size_of_the_image(side):
    """Filled classes and the image shine through: an outline as wide as the image hid both."""
    y, x = np.ogrid[:side, :side]
    disk = (np.hypot(y - side / 2, x - side / 2) < side / 4).astype(int)
    figure = gallery_figure([Sample(np.zeros((3, side, side)), {"fine": disk}, "fine", disk)], ["background", "lesion"])
    pixels = rgb_array(figure).reshape(-1, 3)
    for colour in (ARTEFACT_COLOUR, class_colour(1)):
        alike = np.abs(pixels - 255 * np.array(to_rgb(colour))).max(axis=1) < 8
        assert 0.001 < alike.mean() < 0.02
