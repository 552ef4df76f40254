"""What a factory of modules makes: described by itself, and by the weights that a fixed seed gives it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from ..weights import weights_digest


class Described(Protocol):
    """A module that can say what determines its training."""

    def describe(self) -> dict[str, Any]:
        """Plain values."""


def describe_fresh(make: Callable[[], Described]) -> dict[str, Any]:
    """What a fresh module says of itself, with a digest of its initial weights under seed 0.

    Two factories whose networks start from other weights, such as pretrained ones, are told apart; random states
    stay as they are. Weights that depend on the kind of processor differ between machines.

    Args:
        make: makes a fresh module at each call.

    Raises:
        ValueError: if two modules share a parameter, so that one would start from what the other learnt.

    Example:
        >>> from erode.lightning_modules import SegmentationModule
        >>> describe_fresh(SegmentationModule) == describe_fresh(SegmentationModule)
        True
    """
    with isolate_rng(include_cuda=False):
        torch.default_generator.manual_seed(0)  # this one alone: torch.manual_seed would reach for the GPU
        np.random.seed(0)  # noqa: NPY002  # what networks that draw from NumPy use
        random.seed(0)
        module = make()
    assert isinstance(module, nn.Module)
    described = {**module.describe(), "initial weights": weights_digest(module)}
    with isolate_rng(include_cuda=False):
        other = make()
    assert isinstance(other, nn.Module)
    own = {id(parameter) for parameter in module.parameters()}
    shared = [name for name, parameter in other.named_parameters() if id(parameter) in own]
    if shared:
        raise ValueError(
            f"two modules that the factory made share {shared[0]}, so each row would start from what the one before "
            "it learnt; let the factory build the network at each call"
        )
    return described
