"""Stops a run whose predicted foreground vanishes, and goes back to the last weights that did well."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


class CollapseGuard:
    """Compares predicted with fine foreground on watched batches; keeps the last weights that did well.

    Args:
        threshold: smallest predicted-to-fine foreground ratio that still counts as well.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._counts: Tensor | None = None
        self._met: dict[str, Tensor] | None = None
        self._healthy: dict[str, Tensor] | None = None
        self.report: dict[str, Any] = {"triggered": False}

    def watch(self, module: LightningModule) -> None:
        """Watch the coming batch, and note the weights it will meet."""
        self._met = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def see(self, logits: Tensor, fine: Tensor, where: Tensor | None = None) -> None:
        """Count predicted and fine foreground pixels of a watched batch, all of them or the chosen ones."""
        if self._met is None:
            return
        maps = torch.stack([logits.detach().argmax(1) > 0, fine > 0])
        self._counts = (maps if where is None else maps & where).flatten(1).sum(1).float()

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
