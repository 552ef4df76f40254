"""NegGrad-Seg: fine-tune on the finely annotated images while pushing back on their rings."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..losses import RingAscentLoss, RingReweightedLoss
from ..masks import View
from ..operator_card import OperatorCard
from .bases.own_loss import GuardedLoss, logits_of
from .batches.atom_batches import mean_count
from .batches.entries import class_map, entry

Reading = Literal["reweighted", "ascent"]


class NegGradSeg(GuardedLoss):
    """Replace the training step by NegGrad-Seg on images that have both a fine and a coarse mask.

    The published description allows two readings (theory §6), both offered: ``reweighted`` is cross-entropy to
    the fine label with weight ``ring_weight`` on the ring (bounded); ``ascent`` is pixel-wise NegGrad+,
    ``β`` · descent on consistent pixels minus ``(1 - β)`` · descent on the ring's coarse label (unbounded).

    The guard stops the run before collapse: every ``check_every`` batches it compares the predicted foreground with
    the fine one. Once the ratio falls below ``collapse_ratio`` it restores the last weights at which it had not, and
    stops training.

    While the run lasts, the module's ``training_step`` is the operator's: it calls the module on the image and
    applies the loss. It is put back in ``teardown``. The user's optimiser, scheduler and precision stay.

    Guarantee: none (approximate). Stores one copy of the weights on the CPU. One gradient evaluation per step.

    Args:
        reading: which of the two losses; the bounded one by default.
        ring_weight: w of ``reweighted``; 1 = fine-tuning.
        beta: β of ``ascent``; at most 0.7 collapses.
        collapse_ratio: smallest predicted-to-fine foreground ratio that still counts as well.
        check_every: batches from one look of the guard to the next.
        image_key: key (dict) or index (tuple) of the image in a batch.
        fine_key: the same for the fine mask, integer ``[B, *spatial]``.
        coarse_key: the same for the coarse mask, integer ``[B, *spatial]``.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: for manual optimisation, and for batches without the three entries.
    """

    card = OperatorCard(
        guarantee="approximate",
        paper="NegGrad-Seg, after NegGrad+ (Kurmanji et al. 2023); theory §6",
        trains_on="fine images, pushing back on their rings",
        needs=("retained data", "coarse masks"),
        requests=("pixel",),
        stores="one copy of the weights (CPU), for the guard",
        technique="deep neural networks",
        manipulation="model shifting",
        config="unlearn/neg_grad.yaml",
        page="neg_grad.md",
    )
    view = View.FINE_SUBSET

    def __init__(
        self,
        reading: Reading = "reweighted",
        ring_weight: float = 2.0,
        beta: float = 0.95,
        collapse_ratio: float = 0.1,
        check_every: int = 10,
        image_key: str | int = "image",
        fine_key: str | int = "mask",
        coarse_key: str | int = "coarse",
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(collapse_ratio, check_every, folder)
        if ring_weight <= 0:
            raise ValueError(f"ring_weight must be positive, got {ring_weight}; 1 is plain fine-tuning")
        if not 0 < beta <= 1:
            raise ValueError(f"beta must lie in (0, 1], got {beta}; 1 is plain fine-tuning, 0.95 a usual choice")
        self.reading = reading
        self.ring_weight = ring_weight
        self.beta = beta
        self.image_key = image_key
        self.fine_key = fine_key
        self.coarse_key = coarse_key
        self._loss = RingReweightedLoss(ring_weight) if reading == "reweighted" else RingAscentLoss(beta)

    def loss(self, trainer: Trainer, module: LightningModule, batch: Any) -> tuple[Tensor, int]:
        """One of the two readings."""
        image = entry(batch, self.image_key, "image_key")
        fine = class_map(entry(batch, self.fine_key, "fine_key"), image)
        coarse = class_map(entry(batch, self.coarse_key, "coarse_key"), image)
        logits = logits_of(module, image)
        self.guard.see(logits, fine)

        share = functools.partial(mean_count, trainer)
        return self._loss(logits, fine, coarse, share), len(image)
