"""The metrics of a validation or test run, kept together and logged under one prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ..metrics import (
    ForegroundOutcome,
    GlobalSpuriousInformation,
    ImageAUROC,
    RobustAUROC,
    SegmentationDice,
    SpuriousLeakage,
    foreground_probability,
    mean_probability,
)


class Evaluation(nn.Module):
    """Dice, foreground outcome, image-level AUROC, leakage and S_global of one pass over a data set.

    Images are ranked by the mean probability of the positive class over all pixels, which grows with the lesion, and
    over those of the predicted foreground (``auroc_foreground``), which does not.

    All states are reduced across processes and copies that pad a distributed batch are left out, so the values
    do not depend on the number of processes. Source: theory §7, §8.

    Args:
        class_names: names of the K classes, background first.
        positive_class: the class whose image-level presence AUROC ranks.
        bootstrap: resamples for the interval of S_global; 0 = none.
    """

    def __init__(self, class_names: Sequence[str], positive_class: int, bootstrap: int = 0) -> None:
        super().__init__()
        num_classes = len(class_names)
        self.class_names = list(class_names)
        self.positive_class = positive_class
        self.dice = SegmentationDice(num_classes)
        self.outcome = ForegroundOutcome(num_classes)
        self.auroc = ImageAUROC()
        self.robust_auroc = RobustAUROC()
        self.foreground_auroc = ImageAUROC()
        self.robust_foreground_auroc = RobustAUROC()
        self.leakage = SpuriousLeakage(num_classes)
        self.spurious = GlobalSpuriousInformation(num_classes, bootstrap=bootstrap)

    def update(self, logits: Tensor, batch: Mapping[str, Any]) -> None:
        """Add a batch.

        Args:
            logits: ``[B, K, *spatial]``.
            batch: with fine masks, see :mod:`erode.batch`.
        """
        probabilities = logits.float().softmax(1)
        prediction = logits.argmax(1)
        mask, artefact, counted = batch["mask"], batch["artefact"], batch["counted"]
        self.dice.update(prediction, mask, counted=counted)
        self.outcome.update(prediction, mask, counted=counted)
        positive = (batch["label"] == self.positive_class).long()
        score = mean_probability(probabilities)[:, self.positive_class]
        self.auroc.update(score, positive, counted=counted)
        self.robust_auroc.update(score, positive, batch["flag"], counted=counted)
        inside = foreground_probability(probabilities)[:, self.positive_class]
        self.foreground_auroc.update(inside, positive, counted=counted)
        self.robust_foreground_auroc.update(inside, positive, batch["flag"], counted=counted)
        self.leakage.update(prediction, mask, artefact, counted=counted)
        self.spurious.update(prediction, mask, artefact, counted=counted, cluster=batch.get("group"))

    def compute(self) -> dict[str, Tensor]:
        """Every value under the name it is logged by; NaN where the data does not define it."""
        dice, outcome, leakage = self.dice.compute(), self.outcome.compute(), self.leakage.compute()
        robust = self.robust_auroc.compute()
        values = {"dice_lesion": dice["lesion"], "dice_class": dice["class_mean"]}
        values |= {f"dice_{name}": dice[f"class_{k}"] for k, name in enumerate(self.class_names) if k > 0}
        values |= {f"foreground_{name}": value for name, value in outcome.items()}
        values |= {
            "auroc": self.auroc.compute(),
            "auroc_robust": robust["robust"],
            "auroc_worst": robust["worst_group"],
            "auroc_foreground": self.foreground_auroc.compute(),
            "auroc_foreground_robust": self.robust_foreground_auroc.compute()["robust"],
        }
        values |= {"leakage": leakage["leak_any"], "leakage_gap": leakage["gap_any"]}
        spurious = self.spurious.result()
        values["s_global"] = spurious.value
        if spurious.interval is not None:
            low, high = spurious.interval
            values |= {"s_global_low": torch.tensor(low), "s_global_high": torch.tensor(high)}
        return values

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self.children():
            assert isinstance(metric, Metric)
            metric.reset()
