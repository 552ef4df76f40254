"""Decisions on images from evidence for classes, by thresholds chosen on validation images and frozen (theory §8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PIXEL_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Values of t to choose from: .05, .10, …, .95."""

CHOSEN_ON = "val"
"""The only part of the data on which a rule may be chosen."""


def pixels_above(probs: Tensor, thresholds: Sequence[float] = PIXEL_THRESHOLDS) -> Tensor:
    """Pixels of each class channel above each threshold: all that rules with any t and τ need of an image.

    Args:
        probs: softmax ``[B, K, *spatial]``.
        thresholds: T values of t.

    Returns:
        int64 ``[B, K, T]``, pixels.

    Raises:
        ValueError: for other shapes or dtypes.

    Example:
        >>> pixels_above(torch.tensor([[[0.2, 0.9], [0.8, 0.1]]]), (0.1, 0.5)).tolist()
        [[[2, 1], [1, 1]]]
    """
    if not probs.is_floating_point() or probs.ndim < 3:
        raise ValueError(
            f"probs must be float [B, K, *spatial], the softmax over classes, got {probs.dtype} {list(probs.shape)}"
        )
    flat = probs.flatten(2)
    return torch.stack([(flat > t).sum(2) for t in thresholds], dim=2)


@dataclass(frozen=True)
class ImageEvidence:
    """What speaks for each class in the images of one part of the data.

    Args:
        part: ``train``, ``val`` or ``test``.
        labels: class of each image ``[N]``, 0 = no pathology.
        values: ``[N, K, T]``: pixels above each of T thresholds (`pixels_above`), or, with T = 1, one score per
            class, larger = more of it.
        thresholds: the values of t; None for scores.

    Raises:
        ValueError: for other shapes, or evidence that is not a finite number.
    """

    part: str
    labels: Tensor
    values: Tensor
    thresholds: tuple[float, ...] | None = PIXEL_THRESHOLDS

    def __post_init__(self) -> None:
        columns = 1 if self.thresholds is None else len(self.thresholds)
        if self.values.ndim != 3 or self.values.shape[2] != columns or len(self.values) != len(self.labels):
            raise ValueError(f"evidence must be [N={len(self.labels)}, K, T={columns}], got {list(self.values.shape)}")
        if not bool(self.values.isfinite().all()):
            raise ValueError(
                "evidence holds NaN or infinite scores, between which no cut lies; the model diverged, or its input "
                "holds NaN"
            )

    @property
    def num_classes(self) -> int:
        """K, no pathology included."""
        return self.values.shape[1]


@dataclass(frozen=True)
class DecisionRule:
    """Says which classes an image shows: those with more evidence than their cut.

    For a segmentation, class k is present where more than τ_k pixels exceed the probability t_k; for an image
    classifier, where its score exceeds the cut. `fit` chooses all of them on validation images, by the balanced
    accuracy of each class against the rest; a rule cannot be changed afterwards.

    Args:
        cuts: of classes 1..K-1: τ_k in pixels, or a score.
        thresholds: t_k of the same classes; None where the evidence is a score.
        healthy: some images show no class; without such images the class of most excess is named anyway.

    Source: Hooper et al. 2023 (rule-based summary); one rule for several classes: one against the rest.

    Example:
        >>> pixels = torch.tensor([[[90], [10]], [[40], [60]], [[70], [30]]])  # three images, two classes, one t
        >>> rule = DecisionRule.fit(ImageEvidence("val", torch.tensor([0, 1, 1]), pixels, thresholds=(0.5,)))
        >>> rule
        DecisionRule(cuts=(20.0,), thresholds=(0.5,), healthy=True)
        >>> rule.decide(ImageEvidence("test", torch.tensor([1]), pixels[2:], thresholds=(0.5,)))
        tensor([1])
    """

    cuts: tuple[float, ...]
    thresholds: tuple[float, ...] | None
    healthy: bool

    @classmethod
    def fit(cls, evidence: ImageEvidence) -> DecisionRule:
        """Choose t and τ, or the cuts of scores, on validation images.

        Among equally good τ the middle one, half-way between the evidence of two images; among equally good t the
        one nearest to ½.

        Raises:
            ValueError: if the images are not the validation part, or all or none of them show a class.
        """
        if evidence.part != CHOSEN_ON:
            raise ValueError(
                f"thresholds are chosen on the validation part alone, got evidence of part {evidence.part!r}; fit the "
                "rule on 'val' and apply it to the rest"
            )
        cuts, thresholds = [], []
        for k in range(1, evidence.num_classes):
            positive = evidence.labels == k
            if not 0 < int(positive.sum()) < len(positive):
                raise ValueError(
                    f"{int(positive.sum())} of {len(positive)} validation images show class {k}, and a threshold "
                    "needs images with and without it; choose other parts of the data, or its multi-class task"
                )
            choices = [_best_cut(column, positive) for column in evidence.values[:, k].unbind(1)]
            at = max(range(len(choices)), key=lambda i: (choices[i][0], -abs(_t(evidence, i) - 0.5)))
            cuts.append(choices[at][1])
            thresholds.append(_t(evidence, at))
        scored = evidence.thresholds is None
        return cls(
            cuts=tuple(cut if scored else float(math.floor(cut)) for cut in cuts),
            thresholds=None if scored else tuple(thresholds),
            healthy=bool((evidence.labels == 0).any()),
        )

    def excess(self, evidence: ImageEvidence) -> Tensor:
        """Evidence of classes 1..K-1 beyond their cuts, float64 ``[N, K-1]``; positive = present.

        Raises:
            ValueError: for evidence of other classes or thresholds than the rule's.
        """
        if len(self.cuts) != evidence.num_classes - 1:
            raise ValueError(f"the rule is of {len(self.cuts) + 1} classes, the evidence of {evidence.num_classes}")
        if (self.thresholds is None) != (evidence.thresholds is None):
            raise ValueError("the rule counts pixels and the evidence are scores, or the other way round")
        columns = [0] * len(self.cuts)
        if self.thresholds is not None and evidence.thresholds is not None:
            if not {*self.thresholds} <= {*evidence.thresholds}:
                raise ValueError(f"no pixels were counted above some of t = {self.thresholds}; count them")
            columns = [evidence.thresholds.index(t) for t in self.thresholds]
        chosen = [evidence.values[:, k, column] for k, column in enumerate(columns, start=1)]
        return torch.stack(chosen, dim=1).double() - torch.tensor(self.cuts, dtype=torch.float64)

    def present(self, evidence: ImageEvidence, positive_class: int) -> Tensor:
        """Whether each image shows one class, bool ``[N]``."""
        return self.excess(evidence)[:, positive_class - 1] > 0

    def decide(self, evidence: ImageEvidence) -> Tensor:
        """One class per image, int64 ``[N]``: that of most excess; 0 where none is present and that can be."""
        excess = self.excess(evidence)
        decided = excess.argmax(1) + 1
        return torch.where(excess.amax(1) > 0, decided, 0) if self.healthy else decided

    def describe(self) -> dict[str, Any]:
        """Plain values for records."""
        return {
            "chosen on": CHOSEN_ON,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "cuts": list(self.cuts),
            "healthy": self.healthy,
        }


def balanced_accuracy(decided: Tensor, labels: Tensor) -> Tensor:
    """Mean recall over the classes that occur, 0-dim float64.

    Args:
        decided: class of each image ``[N]``, integer or bool.
        labels: true class ``[N]``.

    Example:
        >>> balanced_accuracy(torch.tensor([1, 0, 0, 0]), torch.tensor([1, 1, 0, 0]))  # recalls ½ and 1
        tensor(0.7500, dtype=torch.float64)
    """
    return torch.stack([(decided[labels == k] == k).double().mean() for k in torch.unique(labels)]).mean()


def _t(evidence: ImageEvidence, column: int) -> float:
    return 0.5 if evidence.thresholds is None else evidence.thresholds[column]


def _best_cut(values: Tensor, positive: Tensor) -> tuple[int, float]:
    """Balanced accuracy of the best cut, times twice the images of both sides, and the cut; in whole numbers, exact."""
    levels = torch.unique(values)
    up, down = values[positive].sort().values, values[~positive].sort().values
    found = len(up) - torch.searchsorted(up, levels, right=True)
    spared = torch.searchsorted(down, levels, right=True)
    quality = found * len(down) + spared * len(up)
    best = quality.max()
    ties = (quality == best).nonzero().flatten()
    at = int(ties[len(ties) // 2])
    above = min(at + 1, len(levels) - 1)
    return int(best), (float(levels[at]) + float(levels[above])) / 2
