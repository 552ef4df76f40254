"""The bottleneck of any network: the layer that says most of an image in the fewest places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .prediction import evaluating

SIDE = 64
"""Pixels a side of the image that a network is tried on."""


class Bottleneck(NamedTuple):
    """A layer, its name in the module, and the channels of its output ``[B, channels, *spatial]``."""

    name: str
    layer: nn.Module
    channels: int


def find_bottleneck(module: nn.Module, name: str | None = None, image_shape: Sequence[int] | None = None) -> Bottleneck:
    """Run a module on a blank image and see what its layers return.

    Args:
        module: maps ``[B, C, *spatial]`` to anything.
        name: of the layer; None = the last to end among those whose output has the fewest places.
        image_shape: ``[C, *spatial]``; None = as many channels as the first convolution wants, 64 a side.

    Raises:
        MisconfigurationException: if the module cannot take that image, or there is no such layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 4, 1), nn.Upsample(64))
        >>> find_bottleneck(net)[::2]
        ('1', 4)
    """
    seen: dict[str, tuple[int, int]] = {}
    layers = {key: layer for key, layer in module.named_modules() if key}

    def watch(key: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim >= 3:
                seen.pop(key, None)  # the last run counts, in the order in which layers end
                seen[key] = (math.prod(output.shape[2:]), output.shape[1])

        return hook

    hooks = [layer.register_forward_hook(watch(key)) for key, layer in layers.items()]
    image = torch.zeros(1, *(image_shape or _image_shape(module)), device=next(module.parameters()).device)
    try:
        with evaluating(module), torch.no_grad():
            module(image)
    except (RuntimeError, ValueError, IndexError) as error:
        raise MisconfigurationException(
            f"{type(module).__name__} cannot be tried on an image {list(image.shape[1:])} ({error}); set image_shape"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if name is None:
        fewest = min((places for places, _ in seen.values()), default=None)
        name = next((key for key in reversed(seen) if seen[key][0] == fewest), None)
    if name is None or name not in seen:
        raise MisconfigurationException(
            f"{type(module).__name__} ran no layer {name!r} that returns features [B, channels, *spatial], only "
            f"{', '.join(seen) or 'none'}; set layer to one of them"
        )
    return Bottleneck(name, layers[name], seen[name][1])


def _image_shape(module: nn.Module) -> tuple[int, ...]:
    first = next((layer for layer in module.modules() if isinstance(layer, _ConvNd)), None)
    if first is None:
        raise MisconfigurationException(
            f"{type(module).__name__} has no convolution that tells what images it takes; set image_shape"
        )
    return first.in_channels, *[SIDE] * len(first.kernel_size)
