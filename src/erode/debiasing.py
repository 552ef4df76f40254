"""What test-time and adversarial debiasing do to images and gradients: backgrounds, noise crops, reversal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SURE = 30.0
"""Logit of the background where a crop did not look: its probability there is 1 up to rounding."""


def background_mean(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean image over what is background, pixel by pixel.

    Args:
        pairs: images ``[B, C, *spatial]`` and bool ``[B, *spatial]``, True = background; all of one size.

    Returns:
        ``[C, *spatial]``; a pixel that is background in no image gets the mean colour of all background.

    Raises:
        ValueError: without any background.

    Source: Bissoto et al. 2020 (normalised background), whose code leaves such a pixel undefined (0/0).

    Example:
        >>> image = torch.tensor([[[[1.0, 5.0]]], [[[3.0, 7.0]]]])
        >>> background_mean([(image, torch.tensor([[[True, False]], [[True, False]]]))])
        tensor([[[2., 2.]]])
    """
    total = count = torch.zeros((), dtype=torch.float64)
    dtype = torch.float32
    for image, background in pairs:
        dtype = image.dtype
        weight = background.unsqueeze(1).to("cpu", torch.float64)
        total = total + (image.to("cpu", torch.float64) * weight).sum(0)
        count = count + weight.sum(0)
    if not bool(count.any()):
        raise ValueError("no pixel of any image is background, so it has no mean; is the right mask given?")
    colour = total.flatten(1).sum(1) / count.sum()
    colour = colour.view(-1, *[1] * (total.ndim - 1)).expand_as(total)
    return torch.where(count > 0, total / count.clamp(min=1), colour).to(dtype)


def replace_background(image: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """Keep the foreground and put another background behind it.

    Args:
        image: ``[B, C, *spatial]``.
        foreground: bool ``[B, *spatial]``; an image without any stays as it is: there is nothing to keep.
        background: ``[C, *spatial]``.

    Returns:
        ``[B, C, *spatial]``.

    Example:
        >>> image, foreground = torch.ones(1, 1, 1, 2), torch.tensor([[[True, False]]])
        >>> replace_background(image, foreground, torch.full((1, 1, 2), 0.5))
        tensor([[[[1.0000, 0.5000]]]])
    """
    axes = (1, *[1] * (foreground.ndim - 1))
    keep = foreground | ~foreground.flatten(1).any(1).view(-1, *axes[1:])
    return torch.where(keep.unsqueeze(1), image, background.to(image))


class Box(NamedTuple):
    """A part of an image, in pixels: first index and length along each spatial axis."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    def slices(self) -> tuple[slice, ...]:
        """The box of an array ``[channels, *spatial]``."""
        return (slice(None), *(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True)))


def lesion_box(foreground: Tensor, margin: float) -> Box:
    """The smallest box around a mask that has the proportions of the image, so that a crop is not distorted.

    Args:
        foreground: bool ``[*spatial]``.
        margin: added on each side, as a fraction of the box.

    Returns:
        The box, shifted to lie within the image; the whole image where nothing is foreground.

    Example:
        >>> mask = torch.zeros(8, 16, dtype=torch.bool)
        >>> mask[2:4, 9:12] = True
        >>> lesion_box(mask, margin=0.0)
        Box(start=(2, 8), size=(2, 4))
    """
    shape = tuple(foreground.shape)
    if not bool(foreground.any()):
        return Box((0,) * len(shape), shape)
    where = foreground.nonzero()
    low, high = where.amin(0).tolist(), (where.amax(0) + 1).tolist()
    spans = [(b - a) / n for a, b, n in zip(low, high, shape, strict=True)]
    scale = min(1.0, max(spans) * (1 + 2 * margin))
    size = [min(n, max(b - a, round(scale * n))) for a, b, n in zip(low, high, shape, strict=True)]
    centred = [(a + b - s) // 2 for a, b, s in zip(low, high, size, strict=True)]
    start = [min(max(c, 0), n - s) for c, s, n in zip(centred, size, shape, strict=True)]
    return Box(tuple(start), tuple(size))


def crop_to(image: Tensor, boxes: list[Box]) -> Tensor:
    """Cut a box out of each image ``[B, C, *spatial]`` and enlarge it (linear) to the size of the image."""
    size = image.shape[2:]
    cut = [_resize(picture[box.slices()][None], size) for picture, box in zip(image, boxes, strict=True)]
    return torch.cat(cut)


def put_back(logits: Tensor, boxes: list[Box]) -> Tensor:
    """Logits of crops ``[B, K, *spatial]`` where they belong in the image; background, class 0, around them."""
    whole = torch.zeros_like(logits)
    whole[:, 0] = SURE
    for picture, crop, box in zip(whole, logits, boxes, strict=True):
        picture[box.slices()] = _resize(crop[None], box.size)[0]
    return whole


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradient, None


def reverse_gradient(features: Tensor, strength: float) -> Tensor:
    """Pass features on unchanged and their gradient back with the opposite sign, times ``strength``.

    Source: Ganin & Lempitsky 2015, Unsupervised Domain Adaptation by Backpropagation.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(3 * x, strength=0.5).sum().backward()
        >>> x.grad
        tensor([-1.5000, -1.5000])
    """
    reversed_: Tensor = _Reversal.apply(features, strength)  # type: ignore[no-untyped-call]
    return reversed_


def _resize(values: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    if values.shape[2:] == torch.Size(size):
        return values
    mode = "bilinear" if values.ndim == 4 else "trilinear"
    return F.interpolate(values.float(), tuple(size), mode=mode, align_corners=False).to(values.dtype)
