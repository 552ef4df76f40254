"""Membership inference: whether a score tells atoms that were trained on from atoms that were not (theory §8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from .auroc import mann_whitney_auroc
from .counts import keep_counted
from .gathering import RowsMetric
from .resampling import (
    cluster_interval,
    exact_binomial,
    half_width,
    is_constant,
    percentile_interval,
    resampled_rates,
    resampled_weights,
    roc_points,
    threshold_at,
)


@dataclass(frozen=True)
class Attack:
    """What an attack achieves on samples of one kind, atoms or images.

    Args:
        auc: P(a member scores higher than a non-member) + ½ P(tie). ½ = chance; below ½ members score *lower*,
            which tells them apart just as well.
        auc_interval: by resampling clusters.
        tpr: share of members above the lowest threshold that at most the asked share of non-members exceed.
        tpr_interval: exact binomial for this threshold, where samples are independent; else by resampling clusters.
        threshold: that score.
        fpr: share of non-members above it.
        fpr_interval: exact binomial; None where samples are dependent.
        members: number of samples.
        non_members: number of samples.
        clusters: number of independent units on the side that has fewer.
        replicates: AUC of each resample ``[R]``; the same for all metrics of the same images, so differences
            of AUCs can be paired.
    """

    auc: float
    auc_interval: tuple[float, float]
    tpr: float
    tpr_interval: tuple[float, float]
    threshold: float
    fpr: float
    fpr_interval: tuple[float, float] | None
    members: int
    non_members: int
    clusters: int
    replicates: Tensor = field(repr=False, compare=False)

    @property
    def chance_lies_inside(self) -> bool:
        """Whether the interval of the AUC holds ½."""
        return self.auc_interval[0] <= 0.5 <= self.auc_interval[1]

    def minus(self, other: Attack, confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
        """Difference of two AUCs on the same images, and its interval by paired resamples.

        Args:
            other: from a metric with the same images, resamples and seed.
            confidence: of the interval.

        Returns:
            (difference, (lower end, upper end)).
        """
        difference, paired = self.auc - other.auc, self.replicates - other.replicates
        if self.clusters < 2 or is_constant(paired):  # resamples say nothing of a difference that never varies
            (low, high), (other_low, other_high) = self.auc_interval, other.auc_interval
            return difference, (low - other_high, high - other_low)
        half = half_width(paired, self.clusters, confidence)
        return difference, (difference - half, difference + half)


@dataclass(frozen=True)
class Membership:
    """What `MembershipInference` found.

    Args:
        atom: over single atoms; intervals allow for the dependence within images.
        image: over images, each scored by the mean over its atoms.
        images: images with at least one atom: members, non-members.
    """

    atom: Attack
    image: Attack
    images: tuple[int, int]


class MembershipInference(RowsMetric):
    """How well a score of atoms tells members (trained on) from non-members, per atom and per image (theory §8).

    Neighbouring atoms of one image are nearly copies of one another, so no interval here takes them as independent:
    images (or larger clusters, such as patients) are drawn with replacement, within members and non-members and
    within each stratum. Images without an atom are left out.

    Args:
        fpr: false positive rate at which the true positive rate is read, between 0 and 1, both excluded.
        bootstrap: resamples R >= 1.
        confidence: of all intervals, between 0 and 1.
        seed: of the resamples. Images are sorted by number first, so the result does not depend on the number of
            processes.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: for settings out of range.

    Source:
        AUC and TPR at a low FPR as in Carlini et al. 2022 (LiRA, §III); resampling of whole clusters as in Field and
        Welsh 2007.

    Example:
        >>> metric = MembershipInference(bootstrap=100)
        >>> scores, atoms = torch.tensor([[3.0, 2.0], [1.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool)
        >>> metric.update(scores, atoms, member=torch.tensor([True, False]), image=torch.arange(2))
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'auc_atom': 1.0, 'tpr_atom': 1.0, 'auc_image': 1.0, 'tpr_image': 1.0}
        >>> metric.result().atom.auc_interval[0] < 0.5  # one image of each kind says nothing
        True
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    scores: list[Tensor]
    sizes: list[Tensor]
    members: list[Tensor]
    images: list[Tensor]
    strata: list[Tensor]
    clusters: list[Tensor]

    def __init__(
        self, fpr: float = 0.01, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < fpr < 1 or not 0 < confidence < 1 or bootstrap < 1:
            raise ValueError(
                f"need fpr and confidence between 0 and 1 and bootstrap >= 1, got {fpr}, {confidence} and {bootstrap}"
            )
        self.fpr = fpr
        self.bootstrap = bootstrap
        self.confidence = confidence
        self.seed = seed
        self._result: Membership | None = None
        self.add_rows("scores", torch.float32)
        for name in ("sizes", "members", "images", "strata", "clusters"):
            self.add_rows(name, torch.int64)

    def update(
        self,
        scores: Tensor,
        atoms: Tensor,
        member: Tensor,
        image: Tensor,
        stratum: Tensor | None = None,
        cluster: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> None:
        """Keep the atoms of a batch, in single precision.

        Args:
            scores: float ``[B, *spatial]``, larger = taken for a member.
            atoms: bool ``[B, *spatial]``, the pixels that are atoms.
            member: bool ``[B]``, True = trained on.
            image: integer ``[B]``, a number of its own for each image, on all processes.
            stratum: integer ``[B]`` within which clusters are drawn, such as the class; None = one.
            cluster: integer ``[B]`` of images that belong together, such as the patient; None = each alone.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for other shapes or dtypes, or atoms whose score is not a number.
        """
        if (
            not scores.is_floating_point()
            or scores.ndim < 2
            or atoms.shape != scores.shape
            or atoms.dtype != torch.bool
        ):
            raise ValueError(
                f"scores must be float and atoms bool, both [B, *spatial], got {scores.dtype} {list(scores.shape)} and "
                f"{atoms.dtype} {list(atoms.shape)}"
            )
        stratum = torch.zeros_like(image) if stratum is None else stratum
        cluster = image if cluster is None else cluster
        if member.dtype != torch.bool or any(x.shape != scores.shape[:1] for x in (member, image, stratum, cluster)):
            raise ValueError(f"member (bool), image, stratum and cluster must be [{len(scores)}], one value per image")
        per_image = keep_counted(counted, scores, atoms, member, image, stratum, cluster)
        scores, atoms, member, image, stratum, cluster = per_image
        values = scores.detach().float()[atoms]
        if bool(values.isnan().any()):
            raise ValueError("scores of atoms hold NaN; the model diverged, or its input holds NaN")
        self.scores.append(values)
        self.sizes.append(atoms.flatten(1).sum(1))
        for name, value in (("members", member), ("images", image), ("strata", stratum), ("clusters", cluster)):
            getattr(self, name).append(value.long())

    def compute(self) -> dict[str, Tensor]:
        """``auc_atom``, ``tpr_atom``, ``auc_image``, ``tpr_image``: 0-dim float64; NaN where a side is empty."""
        values = dict.fromkeys(("auc_atom", "tpr_atom", "auc_image", "tpr_image"), torch.nan)
        self._result = None
        gathered = self._gather()
        if gathered is not None and all(len(side.sizes) for side in gathered):
            found = self._result = self._attack(*gathered)
            for level, attack in (("atom", found.atom), ("image", found.image)):
                values[f"auc_{level}"], values[f"tpr_{level}"] = attack.auc, attack.tpr
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def result(self) -> Membership:
        """Everything found, after the same reduction over processes as `compute`.

        Raises:
            ValueError: if there are no members, or no non-members, with atoms.
        """
        self.compute()
        if self._result is None:
            raise ValueError("membership inference needs atoms of members and of non-members; one side has none")
        return self._result

    def curve(self, level: Literal["atom", "image"]) -> tuple[Tensor, Tensor]:
        """ROC curve over all atoms, or over image means: false and true positive rates, float64 ``[T]``.

        Of this process alone where the evaluation is distributed.

        Raises:
            ValueError: if a side has no atoms.
        """
        gathered = self._gather()
        if gathered is None or not all(len(side.sizes) for side in gathered):
            raise ValueError("a ROC curve needs atoms of members and of non-members; one side has none")
        members, others = ((side.scores if level == "atom" else side.means()) for side in gathered)
        return roc_points(members, others)

    def _gather(self) -> tuple[_Side, _Side] | None:
        """Members and non-members in the order of their numbers; None before any update."""
        if not len(self.sizes):
            return None
        names = ("scores", "sizes", "members", "images", "strata", "clusters")
        scores, sizes, members, images, strata, clusters = (dim_zero_cat(getattr(self, name)).cpu() for name in names)
        if len(torch.unique(images)) < len(images):
            raise ValueError("an image was given twice; number images across all batches, and mark padding in counted")
        rank = images.argsort().argsort()
        owner = rank.repeat_interleave(sizes)
        by_image = owner.argsort(stable=True)
        order = images.argsort()
        everything = _Side(scores[by_image], sizes[order], strata[order], clusters[order])
        chosen = members[order] == 1
        return everything.part(chosen), everything.part(~chosen)

    def _attack(self, members: _Side, others: _Side) -> Membership:
        generator = torch.Generator().manual_seed(self.seed)
        weights = tuple(
            resampled_weights(side.clusters, side.strata, self.bootstrap, generator) for side in (members, others)
        )
        alone = all(len(torch.unique(side.clusters)) == len(side.clusters) for side in (members, others))
        images = len(members.sizes), len(others.sizes)
        clusters = min(len(torch.unique(side.clusters)) for side in (members, others))
        levels = []
        for independent, sides in (
            (False, ((members.scores, members.owner()), (others.scores, others.owner()))),
            (alone, ((members.means(), torch.arange(images[0])), (others.means(), torch.arange(images[1])))),
        ):
            areas, found = resampled_rates(*sides, (weights[0], weights[1]), self.fpr)
            levels.append(self._summary(sides[0][0], sides[1][0], areas, found, clusters, independent))
        return Membership(levels[0], levels[1], images)

    def _summary(
        self, members: Tensor, others: Tensor, areas: Tensor, found: Tensor, clusters: int, independent: bool
    ) -> Attack:
        threshold = threshold_at(others, self.fpr)
        hits, alarms = int((members > threshold).sum()), int((others > threshold).sum())
        auc = float(mann_whitney_auroc(members, others))
        tpr = hits / len(members)
        if independent:
            tpr_interval = exact_binomial(hits, len(members), self.confidence)
        else:
            tpr_interval = percentile_interval(tpr, found, clusters, self.confidence)
        return Attack(
            auc=auc,
            auc_interval=cluster_interval(auc, areas, clusters, self.confidence),
            tpr=tpr,
            tpr_interval=tpr_interval,
            threshold=threshold,
            fpr=alarms / len(others),
            fpr_interval=exact_binomial(alarms, len(others), self.confidence) if independent else None,
            members=len(members),
            non_members=len(others),
            clusters=clusters,
            replicates=areas,
        )


@dataclass(frozen=True)
class _Side:
    """Members or non-members: atoms in the order of their images, and what is known of each image."""

    scores: Tensor
    sizes: Tensor
    strata: Tensor
    clusters: Tensor

    def owner(self) -> Tensor:
        """The image of each atom, 0 to n - 1."""
        return torch.arange(len(self.sizes)).repeat_interleave(self.sizes)

    def means(self) -> Tensor:
        """Mean score of each image, float64."""
        sums = torch.zeros(len(self.sizes), dtype=torch.float64).index_add_(0, self.owner(), self.scores.double())
        return sums / self.sizes

    def part(self, chosen: Tensor) -> _Side:
        """Those of the chosen images that have atoms."""
        chosen = chosen & (self.sizes > 0)
        atoms = chosen[self.owner()]
        return _Side(self.scores[atoms], self.sizes[chosen], self.strata[chosen], self.clusters[chosen])
