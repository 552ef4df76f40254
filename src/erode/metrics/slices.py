"""Counts of predictions by slice (S, Y): what certificates say about pixels is said slice by slice (theory §7.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .counts import artefact_values, check_classes, check_shapes, count_cells, fuse, keep_counted


class SliceCounts(Metric):
    """Pixels by artefact, true class and predicted class: the table of one model.

    `certified_interval` and `pixel_indistinguishability` read it. Pixels whose artefact is not annotated are
    left out; all types of artefact count as one.

    Args:
        num_classes: number of classes, background included.
        kwargs: of ``torchmetrics.Metric``.

    Source: theory §7.3, §8.

    Example:
        >>> counts = SliceCounts(num_classes=2)
        >>> counts.update(torch.tensor([[1, 0, 1]]), torch.tensor([[0, 0, 1]]), torch.tensor([[1, 1, 0]]))
        >>> counts.compute()["counts"].tolist()  # [S][Y][Z]
        [[[0, 0], [0, 1]], [[1, 1], [0, 0]]]
    """

    is_differentiable = False
    full_state_update = False

    counts: Tensor
    images: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        table = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", table, dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, mask: Tensor, artefact: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            pred: predicted class ``[B, *spatial]``, integer.
            mask: class of the fine mask ``[B, *spatial]``, integer.
            artefact: ``[B, *spatial]``, bool or type of artefact, ``UNKNOWN_ARTEFACT`` = not annotated.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for maps of other shapes, dtypes or ranges.
        """
        check_shapes(pred=pred, mask=mask, artefact=artefact)
        pred, mask, artefact = keep_counted(counted, pred, mask, artefact)
        check_classes("pred", pred, self.num_classes)
        check_classes("mask", mask, self.num_classes)
        k = self.num_classes
        values = artefact_values(artefact, 2)
        self.images += (values.flatten(1).amax(1) > 0).sum()
        codes = fuse((values, 3), (mask, k), (pred, k))
        self.counts += count_cells(codes, 3 * k * k).view(3, k, k)[1:]

    def compute(self) -> dict[str, Tensor]:
        """``counts`` ``[S=2, Y=K, Z=K]`` and ``images``, the number of images with an annotated pixel; int64."""
        return {"counts": self.counts.clone(), "images": self.images.clone()}
