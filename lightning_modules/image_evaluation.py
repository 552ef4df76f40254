"""The metrics of a classifier's validation or test run, kept together and logged under one prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..metrics import GroupAccuracy, ImageAUROC, RobustAUROC


class ImageEvaluation(nn.Module):
    """AUROC, robust AUROC and the worst group over (y, s) of one pass over a data set (theory §8).

    All states are reduced across processes and copies that pad a distributed batch are left out.

    Args:
        num_classes: K.
        positive_class: the class whose presence AUROC ranks.
    """

    def __init__(self, num_classes: int, positive_class: int) -> None:
        super().__init__()
        self.positive_class = positive_class
        self.auroc = ImageAUROC()
        self.robust_auroc = RobustAUROC()
        self.accuracy = GroupAccuracy(num_classes)

    def update(self, logits: Tensor, batch: Mapping[str, Any]) -> None:
        """Add a batch.

        Args:
            logits: ``[B, K]``.
            batch: see :mod:`erode.batch`.
        """
        label, flag, counted = batch["label"], batch["flag"], batch["counted"]
        score = logits.double().softmax(1)[:, self.positive_class]
        positive = (label == self.positive_class).long()
        self.auroc.update(score, positive, counted=counted)
        self.robust_auroc.update(score, positive, flag, counted=counted)
        self.accuracy.update(logits.argmax(1), label, flag, counted=counted)

    def compute(self) -> dict[str, Tensor]:
        """Every value under the name it is logged by; NaN where the data does not define it."""
        robust = self.robust_auroc.compute()
        values = {
            "auroc": self.auroc.compute(),
            "auroc_robust": robust["robust"],
            "auroc_worst": robust["worst_group"],
        }
        return values | {f"accuracy_{group}": value for group, value in self.accuracy.compute().items()}

    def reset(self) -> None:
        """Forget all batches."""
        for metric in (self.auroc, self.robust_auroc, self.accuracy):
            metric.reset()
