"""LightningModules."""

from .segmentation import SegmentationModule

__all__ = ["SegmentationModule"]
