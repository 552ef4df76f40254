"""Exact unlearning: train again, from weights that never saw the forget set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..masks import View
from ..operators import OperatorCard
from ..requests.ledger import Ledger, ledger_of_file
from ..weights import load_weights, weights_digest
from .anchor_checks import check_history
from .fresh_start import Before, build_optimizers, stuck
from .operator import UnlearningOperator

EXACT_ASSUMPTIONS = (
    "Every batch of the run held retained data only. A loader of erode marks forget atoms, and they are refused; of "
    "another loader it is the owner's word.",
    "The weights that training started from were computed without the forget set.",
    "Training is a function of current weights and retained data: nothing outside of the module's parameters and "
    "buffers (callbacks, closures, plain attributes, files) remembered the original weights.",
    "Settings, and the choice among runs, did not depend on the forget set.",
)
"""Of exact operators, in their record."""

_REMEMBER: dict[type[Callback], str] = {
    WeightAveraging: "averages in the weights from before",
    StochasticWeightAveraging: "copies the weights from before, and ends with the copy",
    ModelPruning: "keeps a copy of the weights from before, and puts what is not pruned back to it",
}


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
        if only_fine:
            self.view = View.FINE_SUBSET

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse layers whose trained values would survive."""
        refuse_memories(trainer)
        stuck = [] if self.anchor is not None else unresettable(module)
        if stuck:
            raise MisconfigurationException(
                f"Retrain cannot re-initialise {', '.join(stuck)}: no reset_parameters() of a layer reaches them. "
                "Give anchor=WEIGHTS saved from a fresh model (for class weights of a loss, too), or let the layer's "
                "reset_parameters() set them"
            )

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Replace every trained value by the anchor's; all ranks get rank 0's."""
        if self.anchor is not None:
            check_history(self.anchor, trainer)
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
                        tensor.copy_(trainer.strategy.broadcast(tensor))
        self._record["anchor_weights"] = weights_digest(module)
        if self._record["anchor_weights"] == self._original_digest:
            raise MisconfigurationException(
                f"the anchor {self.anchor} holds the very weights that are to be unlearned; give weights that were "
                "computed without the forget set, or no anchor for a fresh start"
            )
        self._record["kept_buffers"] = kept_buffers(module)
        build_optimizers(trainer, Before.of(trainer))

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the checkpoint's weights: they have come from the anchor on retained data alone."""

    def lineage(self, module: LightningModule) -> Ledger | None:
        """The anchor's."""
        if self.anchor is None:
            return Ledger.unexposed(module.state_dict(), "initialisation")
        return ledger_of_file(self.anchor)

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """State the guarantee, and on what it rests."""
        return {"epsilon": 0.0, "delta": 0.0, "assumptions": list(EXACT_ASSUMPTIONS)}


def refuse_memories(trainer: Trainer, before: Callback | None = None) -> None:
    """Refuse callbacks that keep the weights from before, and would bring them into the released ones.

    Args:
        trainer: of the run.
        before: a callback that replaces the weights in its ``setup``, so that those behind it keep what it left.

    Raises:
        MisconfigurationException: naming the callback.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning declares it nowhere
    remedy = "use it in a later fit instead"
    if before is not None:
        callbacks, remedy = callbacks[: callbacks.index(before)], f"list it behind {type(before).__name__}"
    for callback in callbacks:
        for kind, why in _REMEMBER.items():
            if isinstance(callback, kind):
                raise MisconfigurationException(f"{type(callback).__name__} {why}; {remedy}")


def reset_parameters(module: nn.Module) -> None:
    """Re-initialise every layer that owns parameters through its own ``reset_parameters``."""
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()


def unresettable(module: nn.Module) -> list[str]:
    """Names of parameters, and persistent buffers that are no integers, that re-initialising would leave as they are.

    A layer may own a ``reset_parameters`` that forgets some of its tensors, as convolutions under ``weight_norm`` do.

    Example:
        >>> unresettable(nn.Linear(2, 1)), unresettable(torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)))
        ([], ['parametrizations.weight.original0', 'parametrizations.weight.original1'])
    """
    parameters, saved = dict(module.named_parameters()), module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    told = {name for name, b in buffers.items() if b.is_floating_point() or b.is_complex()} | parameters.keys()
    return [name for name in stuck(module, reset_parameters) if name in told]


def kept_buffers(module: nn.Module) -> list[str]:
    """Names of buffers that no re-initialisation reaches: integers, and those that are not saved.

    They are constants in every network of MONAI's; a buffer that training changes would carry it on.
    """
    persistent = module.state_dict().keys()
    return [
        name
        for name, buffer in module.named_buffers()
        if not name.endswith("num_batches_tracked") and (name not in persistent or not buffer.is_floating_point())
    ]
