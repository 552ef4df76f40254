"""A pixel head whose encoder learnt from images alone, so that it never saw a label to be forgotten."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from monai.networks.layers import Conv
from torch import Tensor, nn

from .datamodules import ImagesOnly, MaskDataModule
from .lightning_modules import PixelHead, RestorationModule
from .lightning_modules.segmentation import default_network
from .weights import load_weights, save_weights

CHANNELS = 16
"""Of the features."""

MEASURED = 16
"""Images on which the typical length of the features is measured."""


def label_free_head(
    folder: Path, data: MaskDataModule, steps: int, ridge: float = 1e-4, accelerator: str = "auto"
) -> PixelHead:
    """A pixel head, all zeros, on an encoder that learnt to restore images (docs/recipes/label_free_anchor.md).

    Args:
        folder: holds ``encoder.safetensors``; where it is missing, the encoder is pretrained and put there.
        data: whose training images are looked at, and never their masks.
        steps: gradient steps of the pretraining.
        ridge: λ of the head.
        accelerator: see Lightning's Trainer.

    Returns:
        The head; its features are scaled by their median length on some training images.
    """
    images = torch.stack([torch.from_numpy(data.read(case).image.copy()) for case in data.part("train")[:MEASURED]])
    file = folder / "encoder.safetensors"
    encoder = default_network(CHANNELS, images.ndim - 2, images.shape[1])
    if not file.exists():
        _pretrain(encoder, images, data, steps, accelerator)
        save_weights(encoder, file)
    load_weights(encoder, file)
    with torch.inference_mode():
        length: Tensor = encoder.eval()(images).norm(dim=1).median()
    return PixelHead(
        encoder,
        CHANNELS,
        num_classes=data.num_classes,
        ridge=ridge,
        feature_norm=float(length),
        encoder_weights=str(file),
        class_names=data.class_names,
    )


def _pretrain(encoder: nn.Module, like: Tensor, data: MaskDataModule, steps: int, accelerator: str) -> None:
    """Train the encoder as all but the last layer of a network that restores spoilt images."""
    last = Conv[Conv.CONV, like.ndim - 2](CHANNELS, like.shape[1], 1)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(RestorationModule(nn.Sequential(encoder, last)), datamodule=ImagesOnly(data))
