"""LightningModules."""

from .classifier import ImageClassifier
from .pixel_head import PixelHead
from .quantised import QuantisedSegmentationModule, QuantisedTraining
from .restoration import RestorationModule
from .segmentation import SegmentationModule

__all__ = [
    "ImageClassifier",
    "PixelHead",
    "QuantisedSegmentationModule",
    "QuantisedTraining",
    "RestorationModule",
    "SegmentationModule",
]
