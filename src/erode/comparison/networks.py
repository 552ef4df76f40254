"""Default networks of a comparison or protocol: as many classes, channels and dimensions as the data have."""

from __future__ import annotations

from typing import Any

from ..datamodules import MaskDataModule


def fitting(data: MaskDataModule) -> dict[str, Any]:
    """Arguments with which our modules fit the data: classes, and channels and dimensions of images.

    Args:
        data: any DataModule of ours; one training image is read.

    Example:
        >>> from erode.datamodules import SaabSynthetic
        >>> fitting(SaabSynthetic())
        {'class_names': ['normal', 'abnormal'], 'num_classes': 2, 'in_channels': 1, 'spatial_dims': 2}
    """
    channels, *size = data.pixels(data.part("train")[0]).image.shape
    names = {"class_names": data.class_names, "num_classes": data.num_classes}
    return {**names, "in_channels": channels, "spatial_dims": len(size)}
