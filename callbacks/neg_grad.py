"""NegGrad-Seg: fine-tune on the finely annotated images while pushing back on their rings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from ..losses import RingAscentLoss, RingReweightedLoss
from ..masks import View
from .operator import UnlearningOperator

Reading = Literal["reweighted", "ascent"]


class NegGradSeg(UnlearningOperator):
    """Replace the training step by NegGrad-Seg on images that have both a fine and a coarse mask.

    The published description allows two readings (theory §6), both offered: ``reweighted`` is cross-entropy to
    the fine label with weight ``ring_weight`` on the ring (bounded); ``ascent`` is pixel-wise NegGrad+,
    ``β`` · descent on consistent pixels minus ``(1 - β)`` · descent on the ring's coarse label (unbounded).

    The guard stops the run before collapse: it follows the predicted foreground as a fraction of the fine
    foreground, and once its running mean falls below ``collapse_ratio`` it restores the weights of the last
    checkpoint at which all was well and stops training.

    While the run lasts, the module's ``training_step`` is the operator's: it calls the module on the image and
    applies the loss. It is put back in ``teardown``. The user's optimiser, scheduler and precision stay.

    Guarantee: none (approximate). Stores one copy of the weights on the CPU. One gradient evaluation per step.

    Args:
        reading: which of the two losses.
        ring_weight: w of ``reweighted``; 1 = fine-tuning.
        beta: β of ``ascent``; at most 0.7 collapses.
        collapse_ratio: smallest predicted-to-fine foreground ratio that still counts as well.
        check_every: steps between two looks of the guard.
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
    view = View.FINE_SUBSET

    def __init__(
        self,
        reading: Reading = "ascent",
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
            raise ValueError(f"check_every must be at least 1 step, got {check_every}")
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
        self._own_step = module.__dict__.get("training_step")

        def training_step(batch: Any, *_: Any) -> Tensor:
            image, fine, coarse = (self._entry(batch, key) for key in (self.image_key, self.fine_key, self.coarse_key))
            logits: Tensor = module(image)
            self._guard.see(logits, fine)
            loss: Tensor = self._loss(logits, fine.long(), coarse.long())
            module.log("train/loss", loss, batch_size=len(image))
            return loss

        module.training_step = training_step  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look for collapse now and then; all ranks decide alike."""
        if self.collapse_ratio == 0 or (batch_idx + 1) % self.check_every:
            return
        ratio = self._guard.ratio(trainer)
        if ratio >= self.collapse_ratio:
            self._guard.keep(pl_module, trainer.global_step, ratio)
        elif self._guard.restore(pl_module):
            trainer.should_stop = True

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What the guard did."""
        return {"collapse_guard": self._guard.report}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the training step back."""
        pl_module.__dict__.pop("training_step", None)
        if self._own_step is not None:
            pl_module.training_step = self._own_step  # type: ignore[method-assign]
            self._own_step = None

    def _entry(self, batch: Any, key: str | int) -> Tensor:
        try:
            value = batch[key]
        except (KeyError, IndexError, TypeError) as error:
            held = list(batch) if isinstance(batch, dict) else f"{len(batch)} entries"
            raise MisconfigurationException(
                f"NegGradSeg finds no {key!r} in the training batch ({held}); "
                "name image_key, fine_key and coarse_key as your loader does"
            ) from error
        return value  # type: ignore[no-any-return]


class _CollapseGuard:
    """Running foreground ratio, and the last weights at which it was healthy."""

    def __init__(self, collapse_ratio: float) -> None:
        self._threshold = collapse_ratio
        self._counts: Tensor | None = None
        self._kept: dict[str, Tensor] | None = None
        self.report: dict[str, Any] = {"triggered": False}

    def see(self, logits: Tensor, fine: Tensor) -> None:
        """Count predicted and fine foreground pixels, on the device."""
        counts = torch.stack([(logits.detach().argmax(1) > 0).sum(), (fine > 0).sum()])
        self._counts = counts if self._counts is None else self._counts + counts

    def ratio(self, trainer: Trainer) -> float:
        """Predicted over fine foreground since the last look, over all ranks."""
        assert self._counts is not None  # a batch was seen before on_train_batch_end
        counts = trainer.strategy.reduce(self._counts.float(), reduce_op="sum")
        self._counts = None
        predicted, fine = counts.tolist()  # type: ignore[union-attr]  # a tensor in, a tensor out
        return predicted / fine if fine else 1.0

    def keep(self, module: LightningModule, step: int, ratio: float) -> None:
        """Remember healthy weights."""
        self._kept = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        self.report = {"triggered": False, "healthy_step": step, "foreground_ratio": round(ratio, 4)}

    def restore(self, module: LightningModule) -> bool:
        """Go back to the last healthy weights; without any, the start was not healthy and may yet recover."""
        if self._kept is None:
            return False
        module.load_state_dict(self._kept)
        self.report["triggered"] = True
        return True
