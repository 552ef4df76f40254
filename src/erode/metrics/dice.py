"""Dice of lesion and classes (theory §7.2: never show spurious information without it)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .counts import check_classes, check_shapes, count_cells, fuse, keep_counted

FIXED_POINT = 2**40
"""Dice is summed in units of 2**-40: integers, exact in any order, and room for four million images."""


def image_dice(tables: Tensor) -> Tensor:
    r"""Dice per image of the lesion (any foreground) and of each class, :math:`2|A∩B| / (|A|+|B|)`.

    Args:
        tables: pixel counts ``[B, K+1, K+1]`` by predicted and true class.

    Returns:
        float64 ``[B, K+1]``: lesion, class 1, …, class K; NaN where neither mask has a pixel.

    Example:
        >>> image_dice(torch.tensor([[[5, 1], [1, 3]]]))  # 2·3 / (4 + 4)
        tensor([[0.7500, 0.7500]], dtype=torch.float64)
    """
    predicted, true = tables.sum(2)[:, 1:], tables.sum(1)[:, 1:]
    overlap = torch.cat([tables[:, 1:, 1:].sum((1, 2))[:, None], tables.diagonal(dim1=1, dim2=2)[:, 1:]], 1)
    size = predicted + true
    size = torch.cat([size.sum(1, keepdim=True), size], dim=1)
    return 2 * overlap.double() / size


class SegmentationDice(Metric):
    """Mean over images of the Dice against the fine mask, for the lesion and for each class.

    Lesion: any foreground against any foreground, over all images; both empty scores 1. Class k: over the
    images whose fine mask contains k; the others do not count, whatever was predicted there, since one false
    pixel would turn their Dice from 1 to 0 (false classes show in `ForegroundOutcome` and `SpuriousLeakage`).
    ``class_mean`` is the mean over the classes seen. NaN where no image counts.

    Args:
        num_classes: number of classes, background included.
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> metric = SegmentationDice(num_classes=3)
        >>> metric.update(torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 1, 1]]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'lesion': 1.0, 'class_1': 0.8, 'class_2': nan, 'class_mean': 0.8}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    images: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("total", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, mask: Tensor, counted: Tensor | None = None) -> None:
        """Score a batch.

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
        tables = count_cells(codes, self.num_classes**2, by="image")
        tables = tables.view(-1, self.num_classes, self.num_classes)
        scored = tables.sum(1) > 0
        scored[:, 0] = True  # the lesion column: every image
        dice = image_dice(tables).nan_to_num(nan=1.0).mul(FIXED_POINT).round().long()
        self.total += torch.where(scored, dice, 0).sum(0)
        self.images += scored.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """``lesion``, ``class_1``, …, ``class_mean``, 0-dim float64."""
        means = self.total.double() / FIXED_POINT / self.images
        classes = {f"class_{k}": means[k] for k in range(1, self.num_classes)}
        return {"lesion": means[0], **classes, "class_mean": means[1:].nanmean()}
