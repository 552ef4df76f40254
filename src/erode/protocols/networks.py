"""Default networks of a protocol: as many classes and channels as the data have."""

from __future__ import annotations

from typing import Any

from ..datamodules import MaskDataModule


def fitting(data: MaskDataModule) -> dict[str, Any]:
    """Arguments with which our modules fit the data: names and number of classes, channels of the images.

    Args:
        data: any DataModule of ours; one training image is read.

    Example:
        >>> from erode.datamodules import SaabSynthetic
        >>> fitting(SaabSynthetic())
        {'class_names': ['normal', 'abnormal'], 'num_classes': 2, 'in_channels': 1}
    """
    channels = len(data.pixels(data.part("train")[0]).image)
    return {"class_names": data.class_names, "num_classes": data.num_classes, "in_channels": channels}
