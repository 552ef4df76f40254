"""Exact unlearning: train again, from weights that never saw the forget set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from ..masks import View
from ..weights import load_weights, weights_digest
from .operator import UnlearningOperator


class Retrain(UnlearningOperator):
    """Retrain on the retain view from an anchor that is independent of the forget set.

    Guarantee: exact (ε = 0, δ = 0): the released weights are a function of retained data alone, provided that
    the loader serves retained data only and the anchor was never exposed. Stores nothing, costs a training run.
    Source: theory §2, §6.

    Args:
        anchor: weights computed without the forget set (public or label-free pretraining); None = a fresh
            initialisation by each layer's own ``reset_parameters``.
        only_fine: train on the finely annotated images alone, instead of all that the retain view offers.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        MisconfigurationException: before the first step, if a parameter or floating-point buffer cannot be
            re-initialised, so that it could carry the forget set into the released weights.
    """

    guarantee = "exact"
    paper = "retraining; retain view of theory §2"
    view = View.RETAIN

    def __init__(
        self, anchor: str | Path | None = None, only_fine: bool = False, folder: str | Path | None = None
    ) -> None:
        super().__init__(folder)
        self.anchor = anchor
        self.only_fine = only_fine
        if only_fine:
            self.view = View.FINE_SUBSET

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse layers whose trained values would survive."""
        stuck = [] if self.anchor is not None else unresettable(module)
        if stuck:
            raise MisconfigurationException(
                f"Retrain cannot re-initialise {', '.join(stuck)}: the layer has no reset_parameters(). "
                "Give anchor=WEIGHTS saved from a fresh model, or add reset_parameters() to the layer"
            )

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Replace every trained value by the anchor's; all ranks get rank 0's."""
        if self.anchor is not None:
            load_weights(module, self.anchor)
        else:
            reset_parameters(module)
            with torch.no_grad():
                for tensor in module.state_dict().values():
                    tensor.copy_(trainer.strategy.broadcast(tensor))
        self._record["anchor_weights"] = weights_digest(module)

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the checkpoint's weights: they have come from the anchor on retained data alone."""

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """State the guarantee in words."""
        return {"epsilon": 0.0, "delta": 0.0}


def reset_parameters(module: nn.Module) -> None:
    """Re-initialise every layer that owns parameters through its own ``reset_parameters``."""
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()


def unresettable(module: nn.Module) -> list[str]:
    """Names of parameters and floating-point buffers that no ``reset_parameters`` would re-initialise."""
    stuck: list[str] = []
    for name, layer in module.named_modules():
        if callable(getattr(layer, "reset_parameters", None)):
            continue
        prefix = f"{name}." if name else ""
        persistent = layer.state_dict()
        stuck += [prefix + key for key, _ in layer.named_parameters(recurse=False)]
        stuck += [
            prefix + key
            for key, buffer in layer.named_buffers(recurse=False)
            if key in persistent and buffer.is_floating_point()
        ]
    return stuck
