"""LightningDataModules that emit retain/forget splits of coarse masks: one source per file."""

from .augmentation import random_flips
from .base import MaskDataModule
from .case import Arrays, Case
from .dataset import MaskDataset
from .errors import DataError
from .image_folder import ImageFolderDataModule
from .images_only import ImagesOnly
from .isic import ISICDataModule
from .labelled_subset import LabelledSubset
from .overlay import Overlay
from .parts.correlations import Correlation, artefact_correlations
from .parts.published_traps import PublishedTrap
from .parts.trap import Trap
from .parts.trap_split import TrapSplit
from .pneumothorax import PneumothoraxDataModule
from .saab import SaabSynthetic
from .synthetic import SyntheticDermoscopy

__all__ = [
    "Arrays",
    "Case",
    "Correlation",
    "DataError",
    "ISICDataModule",
    "ImageFolderDataModule",
    "ImagesOnly",
    "LabelledSubset",
    "MaskDataModule",
    "MaskDataset",
    "Overlay",
    "PneumothoraxDataModule",
    "PublishedTrap",
    "SaabSynthetic",
    "SyntheticDermoscopy",
    "Trap",
    "TrapSplit",
    "artefact_correlations",
    "random_flips",
]
