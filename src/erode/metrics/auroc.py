"""AUROC of image scores, overall and where the artefact misleads (theory §8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from .counts import check_flags, keep_counted
from .gathering import RowsMetric


def mann_whitney_auroc(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Exact AUROC, :math:`P(s_+ > s_-) + ½ P(s_+ = s_-)`.

    Wins and ties are counted in integers, so the order of the scores does not matter to the last digit.

    Args:
        positive: scores ``[P]``.
        negative: scores ``[N]``.

    Returns:
        0-dim float64; NaN where a side is empty.

    Example:
        >>> mann_whitney_auroc(torch.tensor([0.5, 0.9]), torch.tensor([0.5, 0.1]))  # 3 wins, 1 tie of 4
        tensor(0.8750, dtype=torch.float64)
    """
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive, right=False)
    not_above = torch.searchsorted(ordered, positive, right=True)
    return (below + not_above).sum().double() / (2 * len(positive) * len(negative) or torch.nan)


class ImageAUROC(RowsMetric):
    """AUROC of an image score for an image label.

    Args:
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> metric = ImageAUROC()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows("scores", torch.float64)
        self.add_rows("labels", torch.int64)

    def update(self, scores: Tensor, labels: Tensor, counted: Tensor | None = None) -> None:
        """Keep the scores of a batch.

        Args:
            scores: float ``[B]``, larger = more positive.
            labels: ``[B]``, 1 = positive, 0 = negative.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for other shapes, labels other than 0 and 1, or scores that are not numbers.
        """
        scores, labels = keep_counted(counted, scores, labels)
        _check_images(scores, labels)
        self.scores.append(scores.detach().double())
        self.labels.append(labels.long())

    def compute(self) -> Tensor:
        """AUROC, 0-dim float64; NaN where a label is absent."""
        if not len(self.scores):
            return torch.tensor(torch.nan, dtype=torch.float64)
        scores, positive = dim_zero_cat(self.scores), dim_zero_cat(self.labels) == 1
        return mann_whitney_auroc(scores[positive], scores[~positive])


class RobustAUROC(RowsMetric):
    """AUROC where label and artefact disagree, and of the worst pair of groups (Saab et al. 2022; theory §8).

    ``robust`` = AUROC on {y=1, s=0} ∪ {y=0, s=1}: a score that reads the artefact instead of the lesion falls
    below ½. ``worst_group`` = the smallest AUROC of positives with s=a against negatives with s=b, over the
    pairs (a, b) for which both groups were seen; ``pairs`` = how many those are, up to four: the smallest of more
    lies lower. Images with an unknown flag are left out. NaN where a group that is needed is empty.

    Args:
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> metric = RobustAUROC()
        >>> scores, labels, flags = torch.tensor([[0.9, 0.3, 0.6, 0.1], [1, 1, 0, 0], [1, 0, 1, 0]])
        >>> metric.update(scores, labels.long(), flags.long())  # the score follows the artefact
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'robust': 0.0, 'worst_group': 0.0, 'pairs': 4.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    labels: list[Tensor]
    flags: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows("scores", torch.float64)
        self.add_rows("labels", torch.int64)
        self.add_rows("flags", torch.int64)

    def update(self, scores: Tensor, labels: Tensor, flags: Tensor, counted: Tensor | None = None) -> None:
        """Keep the scores of a batch.

        Args:
            scores: float ``[B]``, larger = more positive.
            labels: ``[B]``, 1 = positive, 0 = negative.
            flags: ``[B]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = left out.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for other shapes, labels, flags, or scores that are not numbers.
        """
        scores, labels, flags = keep_counted(counted, scores, labels, flags)
        _check_images(scores, labels)
        check_flags(flags, labels)
        self.scores.append(scores.detach().double())
        self.labels.append(labels.long())
        self.flags.append(flags.long())

    def compute(self) -> dict[str, Tensor]:
        """``robust``, ``worst_group`` and ``pairs``, 0-dim float64."""
        if not len(self.scores):
            nothing = torch.tensor(torch.nan, dtype=torch.float64)
            return {"robust": nothing, "worst_group": nothing.clone(), "pairs": torch.zeros_like(nothing)}
        scores, labels, flags = (dim_zero_cat(state) for state in (self.scores, self.labels, self.flags))
        group = {(y, s): scores[(labels == y) & (flags == s)] for y in (0, 1) for s in (0, 1)}
        pairs = torch.stack([mann_whitney_auroc(group[1, a], group[0, b]) for a in (0, 1) for b in (0, 1)])
        worst = torch.where(pairs.isnan(), torch.inf, pairs).min()
        seen = (~pairs.isnan()).sum().double()
        return {"robust": pairs[1], "worst_group": torch.where(worst.isinf(), torch.nan, worst), "pairs": seen}


def _check_images(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"scores and labels must be [B], got {list(scores.shape)} and {list(labels.shape)}; "
            "pick one class channel of the scores"
        )
    if bool(scores.isnan().any()):
        raise ValueError("scores hold NaN; the model diverged, or its input holds NaN")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"labels must be 0 or 1, got {labels.tolist()}; compare, say label == k")
