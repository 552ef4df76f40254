"""Scores of images from segmentation probabilities (theory §8, segmentation for classification)."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def _check(probs: Tensor) -> None:
    if not probs.is_floating_point() or probs.ndim < 3:
        raise ValueError(
            f"probs must be float [B, K, *spatial], the softmax over classes, got {probs.dtype} {list(probs.shape)}"
        )


def mean_probability(probs: Tensor) -> Tensor:
    """Spatial mean of each class channel, the score of Saab et al. 2022.

    It ranks large lesions above small ones of equal certainty; `foreground_probability` does not.

    Args:
        probs: softmax ``[B, K, *spatial]``.

    Returns:
        ``[B, K]``.

    Raises:
        ValueError: for other shapes or dtypes.

    Example:
        >>> mean_probability(torch.tensor([[[0.5, 1.0], [0.5, 0.0]]]))
        tensor([[0.7500, 0.2500]])
    """
    _check(probs)
    return probs.flatten(2).mean(2)


def foreground_probability(probs: Tensor) -> Tensor:
    """Mean of each class channel inside the predicted foreground (argmax > 0), whatever its size.

    Args:
        probs: softmax ``[B, K, *spatial]``.

    Returns:
        ``[B, K]``; 0 where no foreground is predicted.

    Raises:
        ValueError: for other shapes or dtypes.

    Example:
        >>> foreground_probability(torch.tensor([[[0.9, 0.2], [0.1, 0.8]]]))
        tensor([[0.2000, 0.8000]])
    """
    _check(probs)
    # In half precision a count ends at 2,048 and a sum at 65,504, less than the pixels of an image.
    exact = probs.flatten(2).to(torch.promote_types(probs.dtype, torch.float32))
    inside = (probs.argmax(1, keepdim=True) > 0).flatten(2).to(exact.dtype)
    return ((exact * inside).sum(2) / inside.sum(2).clamp(min=1)).to(probs.dtype)


def component_probability(probs: Tensor) -> Tensor:
    """Largest mean of each class channel over the connected components of the predicted foreground.

    Components are labelled image by image on the CPU, by shared edges (faces in 3D).

    Args:
        probs: softmax ``[B, K, *spatial]``.

    Returns:
        ``[B, K]``; 0 where no foreground is predicted.

    Raises:
        ValueError: for other shapes or dtypes.

    Example:
        >>> component_probability(torch.tensor([[[0.1, 0.9, 0.3], [0.9, 0.1, 0.7]]]))
        tensor([[0.3000, 0.9000]])
    """
    _check(probs)
    scores = torch.zeros(probs.shape[:2], dtype=probs.dtype)
    for image, channels in enumerate(probs.detach().cpu().double()):
        labels, components = ndimage.label((channels.argmax(0) > 0).numpy())
        for k, channel in enumerate(channels.numpy() if components else ()):
            scores[image, k] = float(np.max(ndimage.mean(channel, labels, np.arange(1, components + 1))))
    return scores.to(probs.device)


def positive_by_area(probs: Tensor, threshold: float, area: int) -> Tensor:
    """Call a class present if more than ``area`` pixels exceed ``threshold`` (Hooper et al. 2023).

    Args:
        probs: softmax ``[B, K, *spatial]``.
        threshold: t, a probability.
        area: τ in pixels.

    Returns:
        bool ``[B, K]``.

    Raises:
        ValueError: for other shapes or dtypes.

    Example:
        >>> positive_by_area(torch.tensor([[[0.2, 0.9], [0.8, 0.1]]]), threshold=0.1, area=1)
        tensor([[ True, False]])
    """
    _check(probs)
    return (probs > threshold).flatten(2).sum(2) > area
