"""A frozen encoder with features in the unit ball, and a linear head per pixel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MARGIN = 1 - 1e-6
"""Features are scaled to this norm at most: rounding to single precision must not lift them above 1."""


class FrozenFeatures(nn.Module):
    """``logits = W φ``, ``φ = (f min(1/S, 1/‖f‖), 1)/√2``: the feature vector f of a pixel and a constant, ‖φ‖ ≤ 1.

    The constant carries the bias. Features longer than S lose their length, shorter ones keep it.

    Args:
        encoder: maps ``[B, C, *spatial]`` to features ``[B, channels, *any]``; a smaller map is interpolated linearly
            to the size of the image. It is frozen and kept in evaluation mode.
        channels: of the features.
        num_classes: K.
        feature_norm: S > 0; None = √channels, right for features of variance 1.

    Example:
        >>> network = FrozenFeatures(nn.Conv2d(3, 4, 1), channels=4, num_classes=2)
        >>> network(torch.zeros(1, 3, 8, 8)).shape, network.head.shape
        (torch.Size([1, 2, 8, 8]), torch.Size([2, 5]))
    """

    def __init__(self, encoder: nn.Module, channels: int, num_classes: int, feature_norm: float | None = None) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.channels = channels
        self.feature_norm = math.sqrt(channels) if feature_norm is None else feature_norm
        if not self.feature_norm > 0:
            raise ValueError(f"feature_norm must be > 0, got {feature_norm}")
        self.head = nn.Parameter(torch.zeros(num_classes, channels + 1, dtype=torch.float64))

    def reset_parameters(self) -> None:
        """The head's minimiser without data: zeros."""
        nn.init.zeros_(self.head)

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Leave the encoder in evaluation mode whatever happens around it."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        """φ, ``[B, channels + 1, *spatial]``, of images ``[B, C, *spatial]``."""
        with torch.no_grad():
            raw: Tensor = self.encoder(image)
        if raw.ndim != image.ndim or raw.shape[1] != self.channels:
            raise ValueError(
                f"{type(self.encoder).__name__} gives features {list(raw.shape)} where channels = {self.channels} "
                f"needs [B, {self.channels}, *spatial]; set channels, or take another layer"
            )
        if raw.shape[2:] != image.shape[2:]:
            mode = "bilinear" if image.ndim == 4 else "trilinear"
            raw = F.interpolate(raw.float(), size=image.shape[2:], mode=mode, align_corners=False)
        raw = raw.double()
        length = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        scaled = raw / length.clamp(min=self.feature_norm)
        constant = torch.ones_like(length)
        return torch.cat([scaled, constant], dim=1) * (_MARGIN / math.sqrt(2))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``[B, K, *spatial]``, double."""
        return torch.einsum("kd,bd...->bk...", self.head.double(), self.features(image))
