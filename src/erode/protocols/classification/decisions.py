"""How well a model classifies images: thresholds from the validation part, numbers from the test part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...datamodules import MaskDataModule
from ...metrics import (
    DecisionRule,
    ImageEvidence,
    Proportion,
    RobustAUROC,
    balanced_accuracy,
    mann_whitney_auroc,
    subgroup_rates,
)
from .scores import PROBABILITY, ImageScores
from .subsets import lesion_sizes, subgroups


class Judge:
    """Judges models on the test part of some data.

    Args:
        data: with validation images of each class, and without.
        positive_class: the class whose presence is ranked and recalled.

    Raises:
        ValueError: if the validation or test part cannot tell classes apart; before anything is trained.
    """

    def __init__(self, data: MaskDataModule, positive_class: int) -> None:
        self.positive_class = positive_class
        for part, classes in (("val", range(1, data.num_classes)), ("test", (positive_class,))):
            labels = [case.label for case in (data.part("val") if part == "val" else data.part("test"))]
            for k in classes:
                if not 0 < labels.count(k) < len(labels):
                    raise ValueError(
                        f"{labels.count(k)} of {len(labels)} images of the {part} part show {data.class_names[k]!r}; "
                        "classification needs images with and without it: take data, or a task, with several labels"
                    )
        known = lesion_sizes(data, "val").double()
        edges = torch.quantile(known[known > 0], torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
        self.size_edges = [float(edge) for edge in edges]
        cases = data.part("test")
        self._members = subgroups(cases, lesion_sizes(data, "test"), edges)
        groups = torch.tensor([case.group_number for case in cases])
        self._clusters = groups if len(torch.unique(groups)) < len(groups) else None
        self._flags = torch.tensor([case.flags.get(data.flag, -1) for case in cases])

    def judge(self, rule: DecisionRule, validation: ImageScores, test: ImageScores) -> dict[str, Any]:
        """Numbers of one model.

        Args:
            rule: fitted on the evidence of ``validation``.
            validation: the model's view of the validation part.
            test: of the test part.

        Returns:
            ``metrics`` and ``subgroups``: [successes, images] of recall and specificity by name, and where patients
            have several images ``recall_clusters`` and ``specificity_clusters``, the same for each patient.
        """
        labels, k = test.evidence.labels, self.positive_class
        positive = labels == k
        called = rule.present(test.evidence, k)
        rates = subgroup_rates(called, positive, self._members, self._clusters)
        metrics = {
            "auroc": _auroc(test.scores[PROBABILITY][:, k], positive),
            **self._by_group(test.scores[PROBABILITY][:, k], positive),
            "balanced_accuracy": float(balanced_accuracy(called, positive)),
            "balanced_accuracy_classes": float(balanced_accuracy(rule.decide(test.evidence), labels)),
            "recall": rates["all"].recall.value,
            "specificity": rates["all"].specificity.value,
            "dice_lesion": test.dice,
        }
        for name in test.scores.keys() - {PROBABILITY}:
            metrics[f"auroc_{name}"] = _auroc(test.scores[name][:, k], positive)
            metrics |= self._by_group(test.scores[name][:, k], positive, f"_{name}")
        if test.evidence.thresholds is not None:  # a segmentation has other rules beside that of pixels
            for name in test.scores:
                cut = DecisionRule.fit(_as_evidence(validation, name))
                decided = cut.present(_as_evidence(test, name), k)
                metrics[f"balanced_accuracy_{name}"] = float(balanced_accuracy(decided, positive))
        return {
            "metrics": {name: _known(value) for name, value in sorted(metrics.items())},
            "subgroups": {
                name: _counts("recall", rate.recall) | _counts("specificity", rate.specificity)
                for name, rate in rates.items()
            },
        }

    def _by_group(self, scores: Tensor, positive: Tensor, score: str = "") -> dict[str, float]:
        metric = RobustAUROC()
        metric.update(scores, positive.long(), self._flags)
        values = metric.compute()
        return {
            f"auroc{score}_robust": float(values["robust"]),
            f"auroc{score}_worst": float(values["worst_group"]),
        }


def _as_evidence(scores: ImageScores, name: str) -> ImageEvidence:
    return ImageEvidence(scores.evidence.part, scores.evidence.labels, scores.scores[name][:, :, None], None)


def _counts(name: str, share: Proportion) -> dict[str, Any]:
    clusters = {} if share.clusters is None else {f"{name}_clusters": share.clusters}
    return {name: [share.successes, share.trials], **clusters}


def _auroc(scores: Tensor, positive: Tensor) -> float:
    return float(mann_whitney_auroc(scores[positive], scores[~positive]))


def _known(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return None if value is None or value != value else value
