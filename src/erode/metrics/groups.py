"""Groups of images by class y and artefact flag s, and the group that fares worst (theory §8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..batch import UNKNOWN_FLAG
from .counts import check_classes, check_flags, check_shapes, count_cells, fuse, keep_counted
from .dice import FIXED_POINT, image_dice


def group_index(labels: Tensor, flags: Tensor, num_labels: int) -> Tensor:
    """Number the groups (y, s), flag fastest.

    Args:
        labels: class of the image ``[B]``, 0..num_labels-1.
        flags: ``[B]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = in no group.
        num_labels: number of image classes.

    Returns:
        int64 ``[B]``, ``2 y + s``; ``2 num_labels`` for images in no group.

    Raises:
        ValueError: for other shapes, labels or flags.

    Example:
        >>> group_index(torch.tensor([0, 1, 1]), torch.tensor([1, 0, -1]), num_labels=2)
        tensor([1, 2, 4])
    """
    if labels.ndim != 1:
        raise ValueError(f"labels must be [B], got {list(labels.shape)}")
    check_flags(flags, labels)
    if not bool(((labels >= 0) & (labels < num_labels)).all()):
        raise ValueError(f"labels must be 0..{num_labels - 1}, got {labels.tolist()}")
    return torch.where(flags == UNKNOWN_FLAG, 2 * num_labels, 2 * labels.long() + flags.long())


def group_names(num_labels: int) -> list[str]:
    """Names of the groups in the order of `group_index`.

    Example:
        >>> group_names(2)
        ['y0_s0', 'y0_s1', 'y1_s0', 'y1_s1']
    """
    return [f"y{y}_s{s}" for y in range(num_labels) for s in (0, 1)]


class _GroupMeans(Metric):
    """Mean over images in each group of a value in [0, 1], which a subclass computes.

    Values are summed in units of 2**-40, so that two processes give the same digits as one.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    group_images: Tensor

    def __init__(self, num_labels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_labels = num_labels
        for name in ("total", "group_images"):
            self.add_state(name, torch.zeros(2 * num_labels, dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Tensor, labels: Tensor, flags: Tensor) -> None:
        groups = group_index(labels, flags, self.num_labels)
        if len(groups) != len(values):
            raise ValueError(f"need one label and flag per image, got {len(groups)} for {len(values)} images")
        exact = values.double().mul(FIXED_POINT).round().long()
        sums = torch.zeros(2 * self.num_labels + 1, dtype=torch.int64, device=exact.device)
        self.total += sums.index_add(0, groups, exact)[:-1]
        self.group_images += sums.index_add(0, groups, torch.ones_like(groups))[:-1]

    def compute(self) -> dict[str, Tensor]:
        """``y0_s0``, …, NaN for a group without images, ``worst``, ``gap`` and ``groups``, 0-dim float64."""
        means = self.total.double() / FIXED_POINT / self.group_images
        return dict(zip(group_names(self.num_labels), means.unbind(), strict=True)) | extremes(means)


def extremes(means: Tensor) -> dict[str, Tensor]:
    """Smallest mean, largest minus smallest, NaN without any, and the number of groups that have a mean.

    Example:
        >>> {name: value.item() for name, value in extremes(torch.tensor([0.5, torch.nan, 1.0])).items()}
        {'worst': 0.5, 'gap': 0.5, 'groups': 2.0}
    """
    seen = means[~means.isnan()]
    groups = means.new_tensor(len(seen))
    if not len(seen):
        nothing = means.new_tensor(torch.nan)
        return {"worst": nothing, "gap": nothing.clone(), "groups": groups}
    return {"worst": seen.min(), "gap": seen.max() - seen.min(), "groups": groups}


class GroupAccuracy(_GroupMeans):
    """Accuracy of image labels per group (y, s), and of the worst group.

    ``y0_s0``, …: accuracy in each group, NaN without images; ``worst``: the smallest; ``gap``: the largest minus
    the smallest; ``groups``: how many were seen. Small groups are noisy, and the smallest of several noisy means lies
    below the truth, the further the more there are.

    Args:
        num_labels: number of image classes.
        kwargs: of ``torchmetrics.Metric``.

    Source: Sagawa et al. 2020 (worst-group accuracy); theory §8.

    Example:
        >>> metric = GroupAccuracy(num_labels=2)
        >>> metric.update(torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 0, 1]), torch.tensor([1, 1, 0, 0]))
        >>> {name: value.item() for name, value in metric.compute().items()}  # it reads the artefact
        {'y0_s0': 1.0, 'y0_s1': 0.0, 'y1_s0': 0.0, 'y1_s1': 1.0, 'worst': 0.0, 'gap': 1.0, 'groups': 4.0}
    """

    def update(self, predicted: Tensor, labels: Tensor, flags: Tensor, counted: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            predicted: predicted class of the image ``[B]``, integer.
            labels: true class ``[B]``.
            flags: ``[B]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = left out.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for other shapes, labels or flags, or scores in place of classes.
        """
        if predicted.is_floating_point() or predicted.shape != labels.shape:
            raise ValueError(
                f"predicted must hold one integer class per image {list(labels.shape)}, got {predicted.dtype} "
                f"{list(predicted.shape)}; threshold or argmax the scores"
            )
        predicted, labels, flags = keep_counted(counted, predicted, labels, flags)
        self._add((predicted == labels).double(), labels, flags)


class GroupDice(_GroupMeans):
    """Dice of the lesion per group (y, s), averaged over images, and of the worst group.

    As the lesion column of `SegmentationDice`: any foreground against any foreground, both empty scores 1, so
    a group of healthy images counts the images without a false alarm. Values as `GroupAccuracy` names them.

    Args:
        num_classes: number of classes, background included, of masks and of image labels.
        kwargs: of ``torchmetrics.Metric``.

    Source: theory §8.

    Example:
        >>> metric = GroupDice(num_classes=2)
        >>> mask = torch.tensor([[0, 1, 1], [0, 1, 1]])
        >>> metric.update(torch.tensor([[0, 1, 1], [0, 0, 0]]), mask, torch.tensor([1, 1]), torch.tensor([0, 1]))
        >>> {name: metric.compute()[name].item() for name in ("y1_s0", "y1_s1", "worst")}
        {'y1_s0': 1.0, 'y1_s1': 0.0, 'worst': 0.0}
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.num_classes = num_classes

    def update(self, pred: Tensor, mask: Tensor, labels: Tensor, flags: Tensor, counted: Tensor | None = None) -> None:
        """Add a batch.

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
        tables = count_cells(fuse((pred > 0, 2), (mask > 0, 2)), 4, by="image").view(-1, 2, 2)
        self._add(image_dice(tables)[:, 0].nan_to_num(nan=1.0), labels, flags)
