"""The plain mean over images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .base import ClassificationObjective, global_means


class ERM(ClassificationObjective):
    """Empirical risk minimisation: the mean over images.

    Example:
        >>> import torch
        >>> batch = {"label": torch.tensor([0, 1]), "counted": torch.tensor([True, False])}
        >>> ERM()(torch.zeros(2, 2), batch)  # ln 2
        tensor(0.6931)
    """

    def reduce(self, losses: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The mean over counted images of all processes."""
        return global_means(losses, batch["counted"][None])[0][0]
