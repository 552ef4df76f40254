"""LightningModules."""

from .pixel_head import PixelHead
from .restoration import RestorationModule
from .segmentation import SegmentationModule

__all__ = [
    "PixelHead",
    "RestorationModule",
    "SegmentationModule",
]
