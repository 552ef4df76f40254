"""NegGrad+: descend on retained atoms, ascend on forget atoms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..masks import View
from ..operator_card import OperatorCard
from .bases.own_loss import GuardedLoss, first_head, label_loss, logits_of
from .batches.atom_batches import BatchKeys, mean_over


class NegGradPlus(GuardedLoss):
    """Replace the training step by pixel-wise NegGrad+ (theory §6): ``β · ℓ_r - (1 - β) · ℓ_f``.

    ℓ_r is the module's own loss, where it has a method ``loss_of(output, batch)`` and batches are those of
    :mod:`erode.batch`, else the mean cross-entropy of retained atoms to their labels; ℓ_f is the cross-entropy of
    forget atoms to the coarse labels that the original model was trained on. Cross-entropies are means over the atoms
    of all processes. The second term is unbounded, so a guard stops the run before collapse (see
    :class:`~erode.callbacks.bases.own_loss.GuardedLoss`).

    A DataModule of ours serves the two kinds side by side; elsewhere give ``fit`` loaders ``{"retain": ...,
    "forget": ...}``. The shorter one is cycled. Running statistics follow the retained images alone.

    Guarantee: none (approximate). Stores one copy of the weights on the CPU. Two gradient evaluations per step.

    Args:
        beta: β in (0, 1]; 1 = fine-tuning. Published: 0.95 for small networks, 0.9999 for large ones; forget atoms
            are most of a lesion here, and 0.95 unlearns it where ℓ_r is the cross-entropy alone.
        only_fine: retain the finely annotated images alone, instead of all that the retain view offers.
        collapse_ratio: smallest predicted-to-fine foreground ratio that still counts as well; 0 = no guard.
        check_every: batches from one look of the guard to the next.
        image_key: key (dict) or index (tuple) of the image in either batch.
        fine_key: the same for the retained label, integer ``[B, *spatial]``, in the retained batch.
        coarse_key: the same for the original label, integer ``[B, *spatial]``, in the forget batch.
        role_key: the same for the role of each pixel; None = batches have none: all pixels of the retained batch are
            retained, all coarse-foreground pixels of the forget batch are to be forgotten.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: for manual optimisation, and for batches without these entries.

    Source: Kurmanji et al. 2023, §5 (NegGrad+).
    """

    card = OperatorCard(
        guarantee="approximate",
        paper="NegGrad+ (Kurmanji et al. 2023, arXiv 2302.09880), pixel-wise; theory §6",
        trains_on="the retain view (`only_fine`: fine images), pushing back on the forget set",
        needs=("retained data", "forget set"),
        requests=("pixel",),
        stores="one copy of the weights (CPU), for the guard",
        costs="two gradient evaluations per step",
        evaluations_per_step=2.0,
        technique="deep neural networks",
        manipulation="model shifting",
        config="unlearn/neg_grad_plus.yaml",
        page="neg_grad_plus.md",
    )
    asks_for_forget = True
    view = View.RETAIN

    def __init__(
        self,
        beta: float = 0.99,
        only_fine: bool = False,
        collapse_ratio: float = 0.1,
        check_every: int = 10,
        image_key: str | int = "image",
        fine_key: str | int = "mask",
        coarse_key: str | int = "coarse",
        role_key: str | int | None = "role",
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(collapse_ratio, check_every, folder)
        if not 0 < beta <= 1:
            raise ValueError(f"beta must lie in (0, 1], got {beta}; 1 is plain fine-tuning, 0.99 a usual choice")
        self.beta = beta
        self.only_fine = only_fine
        self.image_key = image_key
        self.fine_key = fine_key
        self.coarse_key = coarse_key
        self.role_key = role_key
        self._keys = BatchKeys(image_key, fine_key, coarse_key, role_key)
        if only_fine:
            self.view = View.FINE_SUBSET

    def loss(self, trainer: Trainer, module: LightningModule, batch: Any) -> tuple[Tensor, int]:
        """``β · ℓ_r - (1 - β) · ℓ_f``."""
        retained = self._keys.retained(batch["retain"])
        output = module(retained.image)
        self.guard.see(first_head(output, retained.image, module).float(), retained.label, retained.where)
        descent = label_loss(trainer, module, output, retained, batch["retain"], self._keys)
        forgotten = self._keys.forgotten(batch["forget"])
        with self.statistics_held():
            logits = logits_of(module, forgotten.image).float()
        ascent = mean_over(trainer, F.cross_entropy(logits, forgotten.label, reduction="none"), forgotten.where)
        return self.beta * descent - (1.0 - self.beta) * ascent, len(retained.image)
