"""Segmentation for classification (Hooper et al. 2023): masks against image labels, from few images to all."""

from .experiment import classify

__all__ = ["classify"]
