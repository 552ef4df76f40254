"""Losses over roles, soft targets and rings (theory §2, §6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

from .batch import NO_PRIOR, Role


def soft_targets(batch: Mapping[str, Any], num_classes: int) -> tuple[Tensor, Tensor]:
    """What each pixel should be, and where anything is known about it.

    A labelled pixel is its class. An UNLABELLED pixel with a position prior q is class ``label`` with
    probability q and background otherwise (theory §2, term 3); without one nothing is known.

    Args:
        batch: as :mod:`erode.batch` defines it.
        num_classes: number of classes K, background included.

    Returns:
        Targets, float ``[B, K, *spatial]``, and a boolean map ``[B, *spatial]`` of the pixels they hold for.
    """
    mask, role, prior = batch["mask"], batch["role"], batch["prior"]
    inside = role == Role.UNLABELLED
    has_prior = inside & (prior != NO_PRIOR)
    image_class = batch["label"].view(-1, *[1] * (mask.ndim - 1)).expand_as(mask)
    hard = F.one_hot(torch.where(has_prior, image_class, mask), num_classes).movedim(-1, 1).float()
    q = torch.where(has_prior, prior, 1.0).unsqueeze(1)
    targets = q * hard
    targets[:, 0] += 1 - q[:, 0]
    return targets, (role != Role.IGNORE) & (~inside | has_prior)


class RoleLoss(nn.Module):
    """Dice and cross-entropy on what is known, partial labels and image classes on what was forgotten.

    Terms of the retain view (theory §2): outside pixels (1) and soft targets from the position prior (3) enter
    cross-entropy and Dice; inside pixels without a prior get the partial label ``-log(p_0 + p_y)`` (2); images
    with forgotten pixels get ``-log max p_y`` over them (4). On batches without UNLABELLED pixels only Dice and
    cross-entropy remain.

    Args:
        cross_entropy: weight of the cross-entropy, averaged over known pixels.
        dice: weight of the soft Dice loss over foreground classes, pooled over the batch.
        partial_label: weight of term 2.
        image_class: weight of term 4.
        class_weights: cross-entropy weight of each class, background first; None = equal.

    Shape:
        - logits: ``[B, K, *spatial]``
        - batch: see :mod:`erode.batch`
        - output: scalar

    Source: theory §2; Dice as in Milletari et al. 2016 (V-Net), through MONAI.

    Example:
        >>> batch = {"mask": torch.ones(1, 2, 2, dtype=torch.long), "role": torch.zeros(1, 2, 2),
        ...          "prior": torch.full((1, 2, 2), -1.0), "label": torch.tensor([1])}
        >>> logits = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 20.0)], dim=1)
        >>> RoleLoss()(logits, batch).item() < 1e-4
        True
    """

    def __init__(
        self,
        cross_entropy: float = 1.0,
        dice: float = 1.0,
        partial_label: float = 1.0,
        image_class: float = 0.1,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.cross_entropy = cross_entropy
        self.dice = dice
        self.partial_label = partial_label
        self.image_class = image_class
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)
        self._dice = DiceLoss(include_background=False, batch=True)

    def extra_repr(self) -> str:
        """The weights of the terms."""
        names = ("cross_entropy", "dice", "partial_label", "image_class")
        weights = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        classes = None if self.class_weights is None else self.class_weights.tolist()
        return f"{weights}, class_weights={classes}"

    def forward(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The weighted sum of all terms."""
        logits = logits.float()  # under bf16 autocast, sums over a million pixels need the full mantissa
        targets, known = soft_targets(batch, logits.shape[1])
        pixel_loss = F.cross_entropy(logits, targets, weight=self.class_weights, reduction="none")
        loss = self.cross_entropy * _mean(pixel_loss, known)
        if self.class_weights is not None:  # a weighted mean, as torch takes it over hard labels
            weight = torch.einsum("bk...,k->b...", targets, self.class_weights)
            loss = loss / _mean(weight, known).clamp(min=torch.finfo(weight.dtype).tiny)
        if self.dice:
            seen = known.unsqueeze(1)
            loss = loss + self.dice * self._dice(logits.softmax(1) * seen, targets * seen)
        forgotten = batch["role"] == Role.UNLABELLED
        if (self.partial_label or self.image_class) and bool(forgotten.any()):
            loss = loss + self._forgotten_pixels(logits.log_softmax(1), batch, forgotten)
        return loss

    def _forgotten_pixels(self, log_p: Tensor, batch: Mapping[str, Any], forgotten: Tensor) -> Tensor:
        label = batch["label"].view(-1, *[1] * (log_p.ndim - 1))
        log_p_class = log_p.gather(1, label.expand(-1, 1, *log_p.shape[2:])).squeeze(1)
        partial = -torch.logaddexp(log_p[:, 0], log_p_class)
        without_prior = forgotten & (batch["prior"] == NO_PRIOR)
        best = torch.where(forgotten, log_p_class, -torch.inf).flatten(1).amax(1)
        has_class = forgotten.flatten(1).any(1) & (batch["label"] > 0)
        return self.partial_label * _mean(partial, without_prior) + self.image_class * _mean(-best, has_class)


Share = Callable[[Tensor], Tensor]
"""Makes of the count of a process the mean count of all: distributed training averages what they divide by it."""


def _alone(count: Tensor) -> Tensor:
    return count


class RingReweightedLoss(nn.Module):
    """NegGrad-Seg, reading (a): cross-entropy to the fine label with weight w on the ring (theory §6).

    w = 1 is plain fine-tuning; larger w pushes harder against the dilation artefact. Bounded below by 0.

    Args:
        ring_weight: w, weight of a ring pixel relative to any other.

    Shape:
        - logits: ``[B, K, *spatial]``; fine, coarse: integer ``[B, *spatial]``; output: scalar
    """

    def __init__(self, ring_weight: float = 2.0) -> None:
        super().__init__()
        self.ring_weight = ring_weight

    def forward(self, logits: Tensor, fine: Tensor, coarse: Tensor, share: Share = _alone) -> Tensor:
        """The weighted mean over all pixels; of several processes, if ``share`` gives their mean count."""
        weight = 1.0 + (self.ring_weight - 1.0) * ((coarse > 0) & (fine == 0))
        return (weight * F.cross_entropy(logits.float(), fine, reduction="none")).sum() / share(weight.sum())


class RingAscentLoss(nn.Module):
    """NegGrad-Seg, reading (b): descend on consistent pixels, ascend on the ring's coarse label (theory §6).

    ``β · mean CE(consistent pixels, fine label) - (1 - β) · mean CE(ring, coarse label)``. Unbounded below;
    β ≲ 0.7 collapses.

    Args:
        beta: β in (0, 1].

    Shape:
        - logits: ``[B, K, *spatial]``; fine, coarse: integer ``[B, *spatial]``; output: scalar

    Source: NegGrad+ (Kurmanji et al. 2023), pixel-wise.
    """

    def __init__(self, beta: float = 0.95) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, logits: Tensor, fine: Tensor, coarse: Tensor, share: Share = _alone) -> Tensor:
        """The difference of the two means; of several processes, if ``share`` gives their mean count."""
        ring = (coarse > 0) & (fine == 0)
        logits = logits.float()
        descent = _mean(F.cross_entropy(logits, fine, reduction="none"), ~ring, share)
        ascent = _mean(F.cross_entropy(logits, coarse, reduction="none"), ring, share)
        return self.beta * descent - (1.0 - self.beta) * ascent


def _mean(values: Tensor, where: Tensor, share: Share = _alone) -> Tensor:
    """Mean over the chosen entries; 0, with a gradient of 0, where none is chosen."""
    count = share(where.sum())
    return torch.where(where, values, 0.0).sum() / torch.where(count > 0, count, 1)
