"""The group that fares worst counts most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..batch import UNKNOWN_FLAG
from ..metrics.groups import group_index, group_names
from .base import ClassificationObjective, TrainingSet, global_means


class GroupDRO(ClassificationObjective):
    r"""Group distributionally robust optimisation over groups (y, s) (Sagawa et al. 2020, Algorithm 1 and §3.3).

    With L_g the mean loss of group g in the batch, each step first re-weights the groups, then descends:

    .. math:: q_g ← q_g \, e^{η (L_g + C/\sqrt{n_g})} \; \text{(normalised)}, \qquad \text{loss} = Σ_g q_g L_g

    Groups that a batch lacks keep their weight and add nothing, so draw rare ones often enough. Images whose flag is
    unknown belong to no group and take no part. Worst-group accuracy needs strong regularisation or early stopping
    (their §3.2): with zero training loss all objectives agree.

    Args:
        step_size: η.
        adjustment: C of the group adjustment, 0 = none; larger for small groups, which overfit more.

    Raises:
        ValueError: for negative settings; from `begin`, if no training image has a known flag.

    Example:
        >>> from erode.objectives import TrainingSet
        >>> objective = GroupDRO(step_size=0.5)
        >>> labels, flags = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> objective.begin(TrainingSet("abcd", labels, flags, None, num_classes=2))
        >>> batch = {"label": labels, "flag": flags, "counted": torch.ones(4, dtype=torch.bool)}
        >>> _ = objective.reduce(torch.tensor([0.0, 2.0, 2.0, 0.0]), batch)
        >>> {name: round(weight, 3) for name, weight in objective.weights().items()}
        {'y0_s0': 0.134, 'y0_s1': 0.366, 'y1_s0': 0.366, 'y1_s1': 0.134}
    """

    q: Tensor
    counts: Tensor

    def __init__(self, step_size: float = 0.01, adjustment: float = 0.0) -> None:
        super().__init__()
        if step_size < 0 or adjustment < 0:
            raise ValueError(f"step_size and adjustment must be ≥ 0, got {step_size} and {adjustment}")
        self.step_size, self.adjustment = step_size, adjustment
        for name in ("q", "counts"):  # not persistent: released weights are the network's alone
            self.register_buffer(name, torch.zeros(0), persistent=False)

    @property
    def asks_for_groups(self) -> bool:
        """It has to know which groups there are, and how large."""
        return True

    def begin(self, data: TrainingSet) -> None:
        """Count the groups; those that exist start with equal weights."""
        groups = group_index(data.labels, data.flags, data.num_classes)
        counts = torch.bincount(groups, minlength=2 * data.num_classes + 1)[:-1]
        if not bool((counts > 0).any()):
            raise ValueError(
                f"GroupDRO needs groups (class, artefact), but the flag of every training image is {UNKNOWN_FLAG} "
                "(unknown); name another flag in the data, or use ERM or JustTrainTwice, which need none"
            )
        self.counts = counts.to(self.counts.device).float()
        self.q = (self.counts > 0).float() / (self.counts > 0).sum()

    def reduce(self, losses: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Re-weight the groups by the losses of the batch; the weighted sum of group losses."""
        if not len(self.q):
            raise RuntimeError("GroupDRO does not know the groups yet: call begin() with the training set first")
        groups = group_index(batch["label"], batch["flag"], len(self.q) // 2)
        members = (groups == torch.arange(len(self.q), device=groups.device)[:, None]) & batch["counted"]
        means, sizes = global_means(losses, members)
        if self.training:
            adjusted = means.detach() + self.adjustment / self.counts.clamp(min=1).sqrt()
            self.q = (self.q.log() + self.step_size * adjusted * (sizes > 0)).softmax(0)
        return (self.q * means).sum()

    def restart(self) -> None:
        """Know no groups."""
        self.q, self.counts = self.q.new_zeros(0), self.counts.new_zeros(0)

    def weights(self) -> dict[str, float]:
        """Weight q of each group by its name."""
        return dict(zip(group_names(len(self.q) // 2), self.q.tolist(), strict=True))

    def progress(self) -> dict[str, Any]:
        """The weights of the groups."""
        return {"q": self.q}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on with these weights."""
        self.q = state["q"].to(self.q)

    def extra_repr(self) -> str:
        """Settings, for records."""
        return f"step_size={self.step_size}, adjustment={self.adjustment}"
