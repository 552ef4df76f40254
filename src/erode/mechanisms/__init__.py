"""The certified mechanisms as constants and the guarantee that follows from them; no weights, no torch."""

from __future__ import annotations

from typing import Any

from .base import MEANINGFUL_EPSILON, MOST_STEPS, Mechanism
from .blockwise import BlockwiseMechanism
from .clipping import (
    BallMechanism,
    GradientClippingMechanism,
    ModelClippingMechanism,
    OutputPerturbationMechanism,
)
from .cns import CNSMechanism, published_sensitivity
from .convex import NewtonMechanism, NoisySGDMechanism, ResidualMechanism

__all__ = [
    "MEANINGFUL_EPSILON",
    "MOST_STEPS",
    "BallMechanism",
    "BlockwiseMechanism",
    "CNSMechanism",
    "GradientClippingMechanism",
    "Mechanism",
    "ModelClippingMechanism",
    "NewtonMechanism",
    "NoisySGDMechanism",
    "OutputPerturbationMechanism",
    "ResidualMechanism",
    "mechanism",
    "published_sensitivity",
]

_BY_NAME: dict[str, type[Mechanism]] = {
    kind.name: kind
    for kind in (
        GradientClippingMechanism,
        ModelClippingMechanism,
        OutputPerturbationMechanism,
        ResidualMechanism,
        NewtonMechanism,
        NoisySGDMechanism,
        BlockwiseMechanism,
        CNSMechanism,
    )
}


def mechanism(constants: dict[str, Any]) -> Mechanism:
    """Make a mechanism from what ``Mechanism.constants`` gave.

    Raises:
        ValueError: for an unknown mechanism, a missing or unknown constant, or one out of range.

    Example:
        >>> made = OutputPerturbationMechanism(reference="anchor", radius=1.0, sigma=2.0)
        >>> mechanism(made.constants()) == made
        True
    """
    rest = dict(constants)
    name = rest.pop("name", None)
    if name not in _BY_NAME:
        raise ValueError(f"unknown mechanism {name!r}; this version knows {', '.join(_BY_NAME)}")
    try:
        return _BY_NAME[name](**rest)
    except TypeError as error:
        raise ValueError(f"{name} has other constants: {error}") from error
