"""What was measured: one dictionary of numbers per model, NaN where the data do not define one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lightning.pytorch import LightningModule
from torch import Tensor

Values = dict[str, float]
"""Numbers by the name of the measure."""


class Subject(NamedTuple):
    """A model under measurement.

    Args:
        name: what people read.
        network: in evaluation mode, on its device; maps images to logits.
    """

    name: str
    network: LightningModule


def plain(prefix: str, values: Mapping[str, Tensor | float]) -> Values:
    """Values of a metric as numbers, under a prefix.

    Example:
        >>> plain("ring_", {"js": 0.5})
        {'ring_js': 0.5}
    """
    return {f"{prefix}{name}": float(value) for name, value in values.items()}
