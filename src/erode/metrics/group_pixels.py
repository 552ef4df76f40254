"""What becomes of pixels in each group (y, s): outcome of the foreground, and overlap by class (theory §8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .counts import check_classes, check_shapes, count_cells, fuse, keep_counted
from .groups import group_index, group_names
from .outcome import OUTCOMES, foreground_outcomes


class _GroupTables(Metric):
    """Pixel counts by group, predicted and true class."""

    is_differentiable = False
    full_state_update = False

    tables: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        tables = torch.zeros(2 * num_classes, num_classes, num_classes, dtype=torch.int64)
        self.add_state("tables", tables, dist_reduce_fx="sum")

    def update(self, pred: Tensor, mask: Tensor, labels: Tensor, flags: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            pred: predicted class ``[B, *spatial]``, integer.
            mask: class of the fine mask ``[B, *spatial]``, integer.
            labels: class of the image ``[B]``.
            flags: ``[B]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = left out.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for other shapes, dtypes or ranges.
        """
        check_shapes(pred=pred, mask=mask)
        pred, mask, labels, flags = keep_counted(counted, pred, mask, labels, flags)
        check_classes("pred", pred, self.num_classes)
        check_classes("mask", mask, self.num_classes)
        groups = group_index(labels, flags, self.num_classes)
        if len(groups) != len(pred):
            raise ValueError(f"need one label and flag per image, got {len(groups)} for {len(pred)} images")
        k = self.num_classes
        by_image = count_cells(fuse((pred, k), (mask, k)), k * k, by="image").view(-1, k, k)
        sums = torch.zeros(2 * k + 1, k, k, dtype=torch.int64, device=by_image.device)
        self.tables += sums.index_add(0, groups, by_image)[:-1]


class GroupForegroundOutcome(_GroupTables):
    """`ForegroundOutcome` in each group (y, s): foreground called right, flipped to another class, or missed.

    ``y1_s0_correct``, ``y1_s0_flip``, ``y1_s0_miss``, …: shares that sum to 1 in each group, NaN where it has no
    foreground. ``worst_correct``: the smallest, ``worst_flip`` and ``worst_miss``: the largest over groups, of which
    ``groups`` have foreground. A shortcut that decides the class of a lesion shows as flips in the groups where the
    artefact is rare.

    Args:
        num_classes: number of classes, background included, of masks and of image labels.
        kwargs: of ``torchmetrics.Metric``.

    Source: Achara et al. 2026 (Right Regions, Wrong Labels); theory §8.

    Example:
        >>> metric = GroupForegroundOutcome(num_classes=3)
        >>> pred, mask = torch.tensor([[1, 1, 0], [2, 2, 0]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
        >>> metric.update(pred, mask, torch.tensor([1, 1]), torch.tensor([0, 1]))
        >>> values = metric.compute()
        >>> values["y1_s0_flip"].item(), round(values["y1_s1_flip"].item(), 3)
        (0.0, 0.667)
    """

    def compute(self) -> dict[str, Tensor]:
        """Shares per group, the worst of each, and the number of groups that have any, 0-dim float64."""
        counts = torch.stack([foreground_outcomes(table) for table in self.tables]).double()
        shares = counts / counts.sum(1, keepdim=True)
        values = {
            f"{group}_{outcome}": shares[i, j]
            for i, group in enumerate(group_names(self.num_classes))
            for j, outcome in enumerate(OUTCOMES)
        }
        correct, flip, miss = shares.unbind(1)
        worst = {"worst_correct": -_largest(-correct), "worst_flip": _largest(flip), "worst_miss": _largest(miss)}
        return values | worst | {"groups": (~correct.isnan()).sum().double()}


class GroupIoU(_GroupTables):
    r"""Overlap of each class in its common and in its rare group, and the gap between them.

    .. math:: \mathrm{gap}_k = IoU_k(y=k, s=\text{common}) - IoU_k(y=k, s=\text{rare})

    with IoU over the pixels of all images of a group. ``iou_class_k_common``, ``iou_class_k_rare`` and
    ``gap_class_k`` per foreground class, and ``gap_mean``; NaN where a group was not seen. A positive gap:
    the model leans on the company the class kept in training.

    Args:
        num_classes: number of classes, background included, of masks and of image labels.
        common_flag: the flag most images of each *foreground* class had in **training**, class 1 first; the test set
            cannot tell.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: unless there is one flag, 0 or 1, per foreground class.

    Source: Achara et al. 2026 (Right Regions, Wrong Labels); theory §8.

    Example:
        >>> metric = GroupIoU(num_classes=2, common_flag=[1])
        >>> mask = torch.tensor([[0, 1, 1], [0, 1, 1]])
        >>> metric.update(torch.tensor([[0, 1, 1], [0, 0, 1]]), mask, torch.tensor([1, 1]), torch.tensor([1, 0]))
        >>> metric.compute()["gap_class_1"].item()
        0.5
    """

    higher_is_better = False

    def __init__(self, num_classes: int, common_flag: Sequence[int], **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        if len(common_flag) != num_classes - 1 or not set(common_flag) <= {0, 1}:
            raise ValueError(
                f"common_flag must give 0 or 1 for each of the {num_classes - 1} foreground classes, got {common_flag}"
            )
        self.common_flag = list(common_flag)

    def compute(self) -> dict[str, Tensor]:
        """IoU by class and group, and gaps, 0-dim float64."""
        values: dict[str, Tensor] = {}
        gaps: list[Tensor] = []
        for k, flag in enumerate(self.common_flag, start=1):
            common, rare = (_iou(self.tables[2 * k + s], k) for s in (flag, 1 - flag))
            gaps.append(common - rare)
            values |= {f"iou_class_{k}_common": common, f"iou_class_{k}_rare": rare, f"gap_class_{k}": gaps[-1]}
        return values | {"gap_mean": torch.stack(gaps).nanmean()}


def _iou(table: Tensor, k: int) -> Tensor:
    return table[k, k].double() / (table[k].sum() + table[:, k].sum() - table[k, k])


def _largest(values: Tensor) -> Tensor:
    seen = values[~values.isnan()]
    return seen.max() if len(seen) else values.new_tensor(torch.nan)
