"""Completeness: do two models draw the same masks (theory §8)?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .counts import check_classes, check_shapes, count_cells, fuse, keep_counted
from .dice import FIXED_POINT, image_dice


class Completeness(Metric):
    r"""Overlap of the unlearnt model's masks with those of a model retrained without the forget set.

    .. math:: J = |A ∩ B| / |A ∪ B|, \quad \text{mean over images}

    ``lesion``: any foreground against any foreground, over all images; both empty scores 1. ``class_k``: over
    the images where either model draws class k. ``class_mean``: the mean over the classes seen. ``agreement``:
    share of pixels with the same class. All are 1 for equal predictions. NaN where nothing counts.

    Agreement is mostly background, and two empty models agree: read ``lesion`` beside `SegmentationDice`, and
    beside the completeness of two *retrainings* of different seeds, which is what chance alone leaves.

    Args:
        num_classes: number of classes, background included.
        kwargs: of ``torchmetrics.Metric``.

    Source: Nguyen et al., A Survey of Machine Unlearning (completeness); theory §8.

    Example:
        >>> metric = Completeness(num_classes=2)
        >>> metric.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'lesion': 0.667, 'class_1': 0.667, 'class_mean': 0.667, 'agreement': 0.75}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    images: Tensor
    pixels: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("total", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("pixels", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, pred: Tensor, reference: Tensor, where: Tensor | None = None, counted: Tensor | None = None
    ) -> None:
        """Compare a batch.

        Args:
            pred: class predicted by the unlearnt model ``[B, *spatial]``, integer.
            reference: class predicted by the retrained model ``[B, *spatial]``, integer.
            where: bool ``[B, *spatial]``, the pixels to compare, say the forget atoms; None = all.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for maps of other shapes, dtypes or ranges.
        """
        where = torch.ones_like(pred, dtype=torch.bool) if where is None else where
        check_shapes(pred=pred, reference=reference, where=where)
        pred, reference, where = keep_counted(counted, pred, reference, where)
        check_classes("pred", pred, self.num_classes)
        check_classes("reference", reference, self.num_classes)
        check_classes("where", where, 2)
        k = self.num_classes
        codes = fuse((where, 2), (pred, k), (reference, k))
        tables = count_cells(codes, 2 * k * k, by="image").view(-1, 2, k, k)[:, 1]
        dice = image_dice(tables)  # NaN where neither draws a pixel
        scored = ~dice.isnan()
        scored[:, 0] = tables.sum((1, 2)) > 0  # the lesion column: every image with a pixel to compare
        jaccard = (dice / (2 - dice)).nan_to_num(nan=1.0).mul(FIXED_POINT).round().long()
        self.total += torch.where(scored, jaccard, 0).sum(0)
        self.images += scored.sum(0)
        self.pixels += torch.stack([tables.diagonal(dim1=1, dim2=2).sum(), tables.sum()])

    def compute(self) -> dict[str, Tensor]:
        """``lesion``, ``class_1``, …, ``class_mean`` and ``agreement``, 0-dim float64."""
        means = self.total.double() / FIXED_POINT / self.images
        classes = {f"class_{k}": means[k] for k in range(1, self.num_classes)}
        agreement = self.pixels[0].double() / self.pixels[1]
        return {"lesion": means[0], **classes, "class_mean": means[1:].nanmean(), "agreement": agreement}
