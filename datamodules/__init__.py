"""LightningDataModules that emit retain/forget splits of coarse masks: one source per file."""

from .augmentation import random_flips
from .base import MaskDataModule
from .case import Arrays, Case
from .dataset import MaskDataset
from .errors import DataError
from .image_folder import ImageFolderDataModule
from .images_only import ImagesOnly
from .isic import ISICDataModule
from .overlay import Overlay
from .pneumothorax import PneumothoraxDataModule
from .saab import SaabSynthetic
from .synthetic import SyntheticDermoscopy

__all__ = [
    "Arrays",
    "Case",
    "DataError",
    "ISICDataModule",
    "ImageFolderDataModule",
    "ImagesOnly",
    "MaskDataModule",
    "MaskDataset",
    "Overlay",
    "PneumothoraxDataModule",
    "SaabSynthetic",
    "SyntheticDermoscopy",
    "random_flips",
]
