"""LightningModules."""

from .restoration import RestorationModule
from .segmentation import SegmentationModule

__all__ = ["RestorationModule", "SegmentationModule"]
