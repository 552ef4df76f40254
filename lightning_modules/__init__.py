"""LightningModules."""

from .restoration import RestorationModule
from .segmentation import SegmentationModule

__all__ = ["RestorationModule", "SegmentationModule"]
from .pixel_head import PixelHead
from .segmentation import SegmentationModule

__all__ = ["PixelHead", "SegmentationModule"]
