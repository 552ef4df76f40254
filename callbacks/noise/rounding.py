"""What rounding can move weights by, and what is held back of each bound for it (theory §4, "Rounding")."""

from __future__ import annotations

import math

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ...accounting.clipping import geometric_sum
from ...mechanisms import GradientClippingMechanism
from .noisy_sgd import Vector, vector_norm

_LARGEST_SHARE = 0.5
"""Part of a bound that rounding may take: beyond, little is left to move by, and the number format is to blame."""

_TAIL = 12.0
"""Standard Gaussian noise of d coordinates has a norm above √d + 12 with a probability of at most e⁻⁷²."""

_HEADROOM = 1.01
"""Factor on how far weights can come: their norm is looked at in single precision."""


def rounding_error(norm: float, like: Vector) -> float:
    """Largest Euclidean norm of what rounding each coordinate to the nearest number adds to a vector.

    Args:
        norm: of the vector, or more, before it is rounded.
        like: tensors of its sizes and dtypes.

    Returns:
        ``2⁻²⁴ norm`` in float32, ``2⁻⁵³ norm`` in float64, and next to nothing for what underflows.

    Example:
        >>> rounding_error(1.0, [torch.zeros(3)]) == 2.0**-24
        True
    """
    kinds = [torch.finfo(tensor.dtype) for tensor in like]
    numel = sum(tensor.numel() for tensor in like)
    return max(kind.eps for kind in kinds) / 2 * norm + max(kind.tiny for kind in kinds) * math.sqrt(numel)


def radius_within(radius: float, anchor: Vector, whose: str = "") -> float:
    """Radius to project to, so that weights are within ``radius`` of the anchor when it was added and rounded.

    Args:
        radius: that the account counts on.
        anchor: θ₀.
        whose: begins the message.

    Raises:
        MisconfigurationException: if rounding could take more than half.

    Example:
        >>> radius_within(1.0, [torch.ones(4)]) == 1 - 3 * 2.0**-24
        True
    """
    norm = float(vector_norm(anchor))
    error = rounding_error(norm + radius, anchor)
    if error > _LARGEST_SHARE * radius:
        raise MisconfigurationException(
            f"{whose}weights as near the anchor as radius = {radius:.3g} are lost in rounding: the {_count(anchor)} "
            f"exposed parameters have a norm of {norm:.3g} at the anchor, so {_names(anchor)} moves them by up to "
            f"{error:.2g}, more than half of the radius that the account counts on; raise radius (the noise grows "
            "with it), expose fewer parameters, or compute in 64-true"
        )
    return radius - error


def reach(mechanism: GradientClippingMechanism, anchor: Vector) -> float:
    """Norm that weights cannot exceed in the noisy phase, but for a probability of e⁻⁷² at each step.

    The anchor, the ball, all clipped gradients and all noise; nothing of it depends on the trained weights.
    """
    pushed = mechanism.learning_rate * mechanism.clip_norm
    pushed *= geometric_sum(mechanism.learning_rate * mechanism.weight_decay, mechanism.steps)
    noise = mechanism.final_noise() * (math.sqrt(_count(anchor)) + _TAIL)
    return _HEADROOM * (float(vector_norm(anchor)) + mechanism.radius + pushed + noise)


def clip_norm_within(mechanism: GradientClippingMechanism, anchor: Vector, whose: str = "") -> float:
    """Norm to clip gradients to, so that a step moves no weights by more than γ C1 (and decay) with all its rounding.

    Weights are rounded when the step is added, when the noise is, and when they decay, which takes three more
    operations on the ``γλ`` of their distance from the anchor.

    Args:
        mechanism: whose steps are taken.
        anchor: θ₀.
        whose: begins the message.

    Raises:
        MisconfigurationException: if rounding could take more than half.
    """
    decay = mechanism.learning_rate * mechanism.weight_decay
    times = 2 + (1 + 3 * decay if decay else 0)
    norm = reach(mechanism, anchor)
    error = times * rounding_error(norm, anchor)
    shift = mechanism.learning_rate * mechanism.clip_norm
    if error > _LARGEST_SHARE * shift:
        raise MisconfigurationException(
            f"{whose}certified steps of learning_rate * clip_norm = {shift:.3g} are lost in rounding: the "
            f"{_count(anchor)} exposed parameters have a norm of up to {norm:.3g} with their noise, so "
            f"{_names(anchor)} moves them by up to {error:.2g} at each step, more than half of what the account counts "
            "on; raise learning_rate or clip_norm, take fewer steps, expose fewer parameters, or compute in 64-true"
        )
    return mechanism.clip_norm - (error / mechanism.learning_rate if error else 0.0)


def _count(vector: Vector) -> int:
    return sum(tensor.numel() for tensor in vector)


def _names(vector: Vector) -> str:
    return " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in vector}))
