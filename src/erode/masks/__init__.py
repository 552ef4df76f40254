"""Coarse masks, rings, the forget/retain split and the retain view (theory §1, §2)."""

from .boxes import BoundingBox
from .coarsen import Coarsening, image_class
from .dilation import DiskDilation, SpecificityWindow, SquareDilation, dilations
from .position import PositionPrior
from .retain_view import Labels, View, serve
from .ring import ring, tightness
from .split import ForgetSplit

__all__ = [
    "BoundingBox",
    "Coarsening",
    "DiskDilation",
    "ForgetSplit",
    "Labels",
    "PositionPrior",
    "SpecificityWindow",
    "SquareDilation",
    "View",
    "dilations",
    "image_class",
    "ring",
    "serve",
    "tightness",
]
