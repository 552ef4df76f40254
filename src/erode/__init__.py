"""Certified unlearning of dilation artefacts in medical image segmentation."""

from ._version import __version__

__all__ = ["__version__"]
