"""NegGrad-Seg: fine-tune on the finely annotated images while pushing back on their rings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..losses import RingAscentLoss, RingReweightedLoss
from ..masks import View
from .observation import entry
from .operator import UnlearningOperator

Reading = Literal["reweighted", "ascent"]


class NegGradSeg(UnlearningOperator):
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

    guarantee = "approximate"
    paper = "NegGrad-Seg, after NegGrad+ (Kurmanji et al. 2023)"
    stores = "one copy of the weights (CPU)"
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
        super().__init__(folder)
        if ring_weight <= 0:
            raise ValueError(f"ring_weight must be positive, got {ring_weight}; 1 is plain fine-tuning")
        if not 0 < beta <= 1:
            raise ValueError(f"beta must lie in (0, 1], got {beta}; 1 is plain fine-tuning, 0.95 a usual choice")
        if not 0 <= collapse_ratio < 1:
            raise ValueError(f"collapse_ratio must lie in [0, 1), got {collapse_ratio}; 0 switches the guard off")
        if check_every < 1:
            raise ValueError(f"check_every must be at least 1 batch, got {check_every}")
        self.reading = reading
        self.ring_weight = ring_weight
        self.beta = beta
        self.collapse_ratio = collapse_ratio
        self.check_every = check_every
        self.image_key = image_key
        self.fine_key = fine_key
        self.coarse_key = coarse_key
        self._loss = RingReweightedLoss(ring_weight) if reading == "reweighted" else RingAscentLoss(beta)
        self._guard = _CollapseGuard(collapse_ratio)
        self._own_step: Callable[..., Any] | None = None
        self._batches = 0

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse manual optimisation: the operator's loss would never be seen."""
        if not module.automatic_optimization:
            raise MisconfigurationException(
                f"{type(module).__name__} optimises manually, so NegGradSeg cannot replace its loss; "
                "set automatic_optimization = True for the unlearning run"
            )

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Take over the training step."""
        self._guard = _CollapseGuard(self.collapse_ratio)
        self._batches = 0
        self._own_step = module.__dict__.get("training_step")

        def training_step(batch: Any, *_: Any) -> Tensor:
            image = entry(batch, self.image_key, "image_key")
            fine = entry(batch, self.fine_key, "fine_key")
            coarse = entry(batch, self.coarse_key, "coarse_key")
            logits: Tensor = module(image)
            if logits.ndim == image.ndim + 1:  # supervision heads [B, heads, K, *spatial]: the first is the output
                logits = logits[:, 0]
            self._guard.see(logits, fine)
            loss: Tensor = self._loss(logits, fine.long(), coarse.long())
            module.log("train/loss", loss, batch_size=len(image))
            return loss

        module.training_step = training_step  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Every now and then, watch a batch and remember the weights it meets."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.collapse_ratio and self._batches % self.check_every == 0:
            self._guard.watch(pl_module)
        self._batches += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop on collapse; all ranks decide alike."""
        if self._guard.collapsed(trainer, pl_module):
            trainer.should_stop = True

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What the guard did."""
        return {"collapse_guard": self._guard.report}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the training step back."""
        super().teardown(trainer, pl_module, stage)
        pl_module.__dict__.pop("training_step", None)
        if self._own_step is not None:
            pl_module.training_step = self._own_step  # type: ignore[method-assign]
            self._own_step = None


class _CollapseGuard:
    """Compares predicted with fine foreground on watched batches; keeps the last weights that did well."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._counts: Tensor | None = None
        self._met: dict[str, Tensor] | None = None
        self._healthy: dict[str, Tensor] | None = None
        self.report: dict[str, Any] = {"triggered": False}

    def watch(self, module: LightningModule) -> None:
        """Watch the coming batch, and note the weights it will meet."""
        self._met = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def see(self, logits: Tensor, fine: Tensor) -> None:
        """Count predicted and fine foreground pixels of a watched batch."""
        if self._met is not None:
            self._counts = torch.stack([(logits.detach().argmax(1) > 0).sum(), (fine > 0).sum()]).float()

    def collapsed(self, trainer: Trainer, module: LightningModule) -> bool:
        """Judge a watched batch; on collapse restore healthy weights, if there were any.

        Weights that never did well are left to train: a start that predicts nothing may yet recover.
        """
        if self._met is None or self._counts is None:
            return False
        predicted, fine = trainer.strategy.reduce(self._counts, reduce_op="sum").tolist()
        met, self._met, self._counts = self._met, None, None
        ratio = predicted / fine if fine else 1.0
        if ratio >= self._threshold:
            self._healthy = met
            self.report = {
                "triggered": False,
                "healthy_step": trainer.global_step - 1,
                "ratio": round(ratio, 4),
            }
            return False
        if self._healthy is None:
            return False
        module.load_state_dict(self._healthy)
        self.report["triggered"] = True
        return True
