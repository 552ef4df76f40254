"""A pixel head whose encoder learnt from the fine images alone, so that it never saw a label to be forgotten."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.layers import Conv
from torch import Tensor, nn

from ..datamodules import MaskDataModule
from ..lightning_modules import PixelHead, SegmentationModule
from ..lightning_modules.segmentation import default_network
from ..masks import View
from ..weights import load_weights, save_weights
from .trainer import row_trainer

CHANNELS = 16
"""Of the features."""

MEASURED = 16
"""Fine images on which the typical length of the features is measured."""


def unexposed_head(
    folder: Path, data: MaskDataModule, steps: int, ridge: float = 1e-4, accelerator: str = "auto"
) -> PixelHead:
    """A pixel head, all zeros, on the features of a network that learnt from the finely annotated images alone.

    Args:
        folder: holds ``encoder.safetensors``; where it is missing, the encoder is trained and put there.
        data: serves the fine images during this, and what it served before afterwards.
        steps: gradient steps of the encoder.
        ridge: λ of the head.
        accelerator: see Lightning's Trainer.

    Returns:
        The head; its features are scaled by their median length on some fine images.
    """
    before = data.view
    data.serve(View.FINE_SUBSET)
    fine = data.dataset("train").untransformed()
    images: Tensor = torch.stack([fine[index]["image"] for index in range(min(MEASURED, len(fine)))])
    file = folder / "encoder.safetensors"
    encoder = default_network(CHANNELS, images.ndim - 2, images.shape[1])
    if not file.exists():
        _train(encoder, images, data, steps, folder, accelerator)
        save_weights(encoder, file)
    load_weights(encoder, file)
    data.serve(before)
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


def _train(encoder: nn.Module, like: Tensor, data: MaskDataModule, steps: int, folder: Path, accelerator: str) -> None:
    """Train the encoder as all but the last layer of a segmentation network."""
    last = Conv[Conv.CONV, like.ndim - 2](CHANNELS, data.num_classes, 1)
    module = SegmentationModule(
        nn.Sequential(encoder, last), num_classes=data.num_classes, class_names=data.class_names
    )
    trainer = row_trainer(data, steps, folder, accelerator, logger=False, enable_progress_bar=False)
    trainer.fit(module, datamodule=data)
