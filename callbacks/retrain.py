"""Exact unlearning: train again, from weights that never saw the forget set."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..lightning_state import callbacks_of
from ..masks import View
from ..operator_card import OperatorCard
from ..requests.ledger import Ledger, ledger_of_file
from ..weights import load_weights, weights_digest
from .bases.operator import WEIGHTS_KEY, UnlearningOperator
from .guards.anchor_checks import check_history
from .guards.optimizers import Before, build_optimizers
from .guards.refusals import refuse_memories
from .guards.reset import kept_buffers, reset_parameters, stuck, unresettable
from .guards.shared_memory import check_loads, overwrite

EXACT_ASSUMPTIONS = (
    "Every batch of the run held retained data only. A loader of erode marks forget atoms, and they are refused; of "
    "another loader it is the owner's word.",
    "The weights that training started from were computed without the forget set.",
    "Training is a function of current weights and retained data: nothing outside of the module's parameters and "
    "buffers (callbacks, closures, plain attributes, files) remembered the original weights, and buffers that no "
    "re-initialisation reaches (kept_buffers) are constants.",
    "Settings, and the choice among runs, did not depend on the forget set.",
)
"""Of exact operators, in their record."""


class Retrain(UnlearningOperator):
    """Retrain on the retain view from an anchor that is independent of the forget set.

    Guarantee: exact (ε = 0, δ = 0): the released weights are a function of retained data alone, provided that
    the loader serves retained data only and the anchor was never exposed. Stores nothing, costs a training run.
    Source: theory §2, §6.

    Args:
        anchor: weights computed without the forget set (public or label-free pretraining), which is your word; None
            = a fresh initialisation by each layer's own ``reset_parameters``.
        only_fine: train on the finely annotated images alone, instead of all that the retain view offers.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        MisconfigurationException: before the first step, if a parameter or floating-point buffer cannot be
            re-initialised, so that it could carry the forget set into the released weights.
    """

    card = OperatorCard(
        guarantee="exact",
        paper="retraining; retain view of theory §2",
        trains_on="the retain view, from fresh weights or an anchor",
        needs=("retained data",),
        requests=("item", "pixel"),
        costs="a training run, one gradient evaluation per step",
        technique="retraining from scratch",
        manipulation="retraining",
        config="unlearn/retrain.yaml",
        page="retrain.md",
    )
    view = View.RETAIN

    def __init__(
        self, anchor: str | Path | None = None, only_fine: bool = False, folder: str | Path | None = None
    ) -> None:
        super().__init__(folder)
        self.anchor = anchor
        self.only_fine = only_fine
        self._constants: dict[str, tuple[Tensor, Tensor]] = {}
        if only_fine:
            self.view = View.FINE_SUBSET

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse layers whose trained values would survive."""
        refuse_memories(callbacks_of(trainer))
        left = [] if self.anchor is not None else unresettable(module)
        if left:
            raise MisconfigurationException(
                f"Retrain cannot re-initialise {', '.join(left)}: no reset_parameters() of a layer reaches them. "
                "Give anchor=WEIGHTS saved from a fresh model (for class weights of a loss, too), or let the layer's "
                "reset_parameters() set them"
            )

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Replace every trained value by the anchor's; all ranks get rank 0's."""
        if self.anchor is not None:
            check_history(self.anchor, trainer)
            check_loads(module)
            load_weights(module, self.anchor)
        else:
            reset_parameters(module)
            if frozen := [name for name, parameter in module.named_parameters() if not parameter.requires_grad]:
                rank_zero_warn(
                    f"Retrain drew {frozen[0]} and {len(frozen) - 1} other frozen parameters anew, for nothing says "
                    "that they were never trained; give anchor=WEIGHTS that hold those of a fixed filter or backbone"
                )
            with torch.no_grad():
                for tensor in module.state_dict().values():
                    if isinstance(tensor, Tensor):
                        overwrite(tensor, trainer.strategy.broadcast(tensor))
        self._record["anchor_weights"] = weights_digest(module)
        if self._record["anchor_weights"] == self._original_digest:
            raise MisconfigurationException(
                f"the anchor {self.anchor} holds the very weights that are to be unlearned; give weights that were "
                "computed without the forget set, or no anchor for a fresh start"
            )
        self._record["kept_buffers"] = kept_buffers(module)
        self._constants = self._unreached(module)
        build_optimizers(trainer, Before.of(trainer))

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the checkpoint's weights: they have come from the anchor on retained data alone."""
        if "anchor_weights" not in self._record:
            raise MisconfigurationException(
                f"{trainer.ckpt_path} was saved before Retrain had replaced the trained weights; start anew from them"
            )
        self._constants = self._unreached(module)

    def shortfall(self) -> str | None:
        """Also an integer buffer that training counts in and nothing reset: it has counted the forget set too."""
        for name, (buffer, before) in self._constants.items():
            if not torch.equal(buffer, before):
                return (
                    f"the buffer {name} changed in the run and was not reset before, so it may carry counts of the "
                    "forget set; let the layer's reset_parameters() set it, or give an anchor that holds it"
                )
        return super().shortfall()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let no run go on from a buffer that this one would not release."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.shortfall() is not None:
            checkpoint.pop(WEIGHTS_KEY, None)

    def lineage(self, module: LightningModule) -> Ledger | None:
        """The anchor's."""
        if self.anchor is None:
            return Ledger.unexposed(module.state_dict(), "initialisation")
        return ledger_of_file(self.anchor)

    def renewed_buffers(self, module: nn.Module) -> Collection[str]:
        """All that ``reset_parameters`` sets."""
        if self.anchor is not None:
            return ()
        return {name for name, _ in module.named_buffers()} - {*stuck(module, reset_parameters)}

    def _unreached(self, module: LightningModule) -> dict[str, tuple[Tensor, Tensor]]:
        """Saved integer buffers that nothing set anew, and their values."""
        if self.anchor is not None:
            return {}
        saved, buffers = module.state_dict().keys(), dict(module.named_buffers())
        kept = [name for name in stuck(module, reset_parameters) if name in saved and name in buffers]
        return {name: (buffers[name], buffers[name].clone()) for name in kept}

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """State the guarantee, and on what it rests."""
        return {"epsilon": 0.0, "delta": 0.0, "assumptions": list(EXACT_ASSUMPTIONS)}
