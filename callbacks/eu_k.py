"""EU-k: re-initialise the last k blocks and retrain them alone."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from ..lightning_state import callbacks_of
from ..operator_card import OperatorCard
from .bases.blocks import LastBlocks
from .guards.optimizers import Before, build_optimizers
from .guards.refusals import refuse_memories
from .guards.reset import unresettable


class EUk(LastBlocks):
    """Re-initialise the last ``k`` blocks by their own ``reset_parameters`` and train them anew; nothing else changes.

    See :class:`~erode.callbacks.bases.blocks.LastBlocks` for what a block is. Guarantee: none (approximate): the last
    blocks are retrained exactly, but on features that the blocks before them learnt from the forget set. Stores
    nothing. At most one gradient evaluation per step.

    Args:
        k: blocks to train, counted from the output.
        only_fine: train on the finely annotated images alone, instead of all that the retain view offers.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for k < 1.
        MisconfigurationException: see :class:`~erode.callbacks.bases.blocks.LastBlocks`; and if a parameter of the last
            blocks cannot be re-initialised, or weights are averaged.

    Source: Goel et al. 2022 (exact unlearning of the last k layers).
    """

    card = OperatorCard(
        guarantee="approximate",
        scope="the last blocks are retrained exactly, on features that learnt from the forget set",
        paper="EU-k (Goel et al. 2022, arXiv 2201.06640); theory §6",
        trains_on="the retain view (`only_fine`: fine images), the last k blocks only, from fresh weights",
        needs=("retained data",),
        requests=("item", "pixel"),
        costs="at most one gradient evaluation per step",
        technique="deep neural networks",
        manipulation="model replacement",
        config="unlearn/eu_k.yaml",
        page="eu_k.md",
    )
    instead = "Retrain, which is exact"

    def __init__(self, k: int = 3, only_fine: bool = False, folder: str | Path | None = None) -> None:
        super().__init__(k, only_fine, folder)

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse layers whose trained values would survive."""
        refuse_memories(callbacks_of(trainer))
        trained = {name for block in self._trained for name in block.parameters}
        stuck = [name for name in unresettable(module) if name in trained]
        stuck += [
            block.name
            for block in self._trained
            if not set(stuck) & block.parameters.keys()
            and not all(callable(getattr(layer, "reset_parameters", None)) for layer in block.layers)
        ]
        if stuck:
            raise MisconfigurationException(
                f"EUk cannot re-initialise {', '.join(stuck)}: no reset_parameters() of their own layer "
                "reaches them; lower k, or let the layer's reset_parameters() set them"
            )

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Re-initialise the last blocks; all ranks get rank 0's."""
        for block in self._trained:
            for layer in block.layers:
                layer.reset_parameters()  # type: ignore[operator]  # check() has tried it
        with torch.no_grad():
            for block in self._trained:
                for parameter in block.parameters.values():
                    parameter.copy_(trainer.strategy.broadcast(parameter))
        super().prepare(trainer, module)
        # Built anew: some optimisers copy the weights when they are made, and those were the original ones.
        build_optimizers(trainer, Before.of(trainer))
