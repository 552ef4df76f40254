"""``erode audit``: membership inference on the forget atoms of trained models."""

from .command import audit

__all__ = ["audit"]
