"""What becomes of foreground: right, flipped to another class, or missed (theory §8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .counts import check_classes, check_shapes, count_cells, fuse, keep_counted

OUTCOMES = ("correct", "flip", "miss")
"""What can become of a foreground pixel, in the order of `foreground_outcomes`."""


def foreground_outcomes(table: Tensor) -> Tensor:
    """Count foreground pixels called right, flipped and missed.

    Args:
        table: pixel counts ``[K+1, K+1]`` by predicted and true class.

    Returns:
        int64 ``[3]`` in the order of ``OUTCOMES``.

    Example:
        >>> foreground_outcomes(torch.tensor([[9, 1, 2], [0, 5, 3], [0, 4, 6]]))
        tensor([11,  7,  3])
    """
    correct, miss = table[1:, 1:].trace(), table[0, 1:].sum()
    return torch.stack([correct, table[:, 1:].sum() - correct - miss, miss])


class ForegroundOutcome(Metric):
    """Shares of foreground pixels called right, flipped and missed; they sum to 1 (Achara et al. 2026).

    ``correct`` = P(Z=Y|Y>0), ``flip`` = P(Z>0, Z≠Y|Y>0), ``miss`` = P(Z=0|Y>0), over the pixels of all
    images. A shortcut that decides the class of a lesion shows as flips, which the Dice of the lesion hides.
    NaN where no foreground was seen.

    Args:
        num_classes: number of classes, background included.
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> metric = ForegroundOutcome(num_classes=3)
        >>> metric.update(torch.tensor([[1, 2, 0, 1, 0]]), torch.tensor([[1, 1, 1, 1, 0]]))
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'correct': 0.5, 'flip': 0.25, 'miss': 0.25}
    """

    is_differentiable = False
    full_state_update = False

    outcomes: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("outcomes", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, mask: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            pred: predicted class ``[B, *spatial]``, integer.
            mask: class of the fine mask ``[B, *spatial]``, integer.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for maps of other shapes, dtypes or ranges.
        """
        check_shapes(pred=pred, mask=mask)
        pred, mask = keep_counted(counted, pred, mask)
        check_classes("pred", pred, self.num_classes)
        check_classes("mask", mask, self.num_classes)
        codes = fuse((pred, self.num_classes), (mask, self.num_classes))
        table = count_cells(codes, self.num_classes**2).view(self.num_classes, self.num_classes)
        self.outcomes += foreground_outcomes(table)

    def compute(self) -> dict[str, Tensor]:
        """``correct``, ``flip`` and ``miss``, 0-dim float64."""
        shares = self.outcomes.double() / self.outcomes.sum()
        return dict(zip(OUTCOMES, shares.unbind(), strict=True))
