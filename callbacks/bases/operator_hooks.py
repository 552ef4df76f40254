"""What an unlearning operator says and does in its own way; the order of a run is that of all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import Module

from ...masks import View
from ...operator_card import Effort, OperatorCard
from ...requests import Ledger


class OperatorSlots(Callback):
    """The slots that operators fill; :class:`~erode.callbacks.UnlearningOperator` calls them in its order."""

    card: ClassVar[OperatorCard]
    """What it promises, needs, keeps and costs; a subclass without one is refused, unless it says ``base=True``."""
    asks_for_forget: ClassVar[bool] = False
    """Whether its batches are ``{"retain": batch, "forget": batch}``; only then may forget atoms be served at all."""
    view: View
    """Retained labels it trains on."""

    def __init_subclass__(cls, *, base: bool = False, **keywords: Any) -> None:
        """Refuse an operator that does not say what it promises; ``base=True`` for a common part of several.

        Raises:
            TypeError: without a card.
        """
        super().__init_subclass__(**keywords)
        if not base and not isinstance(getattr(cls, "card", None), OperatorCard):
            raise TypeError(
                f"{cls.__name__} has no card: give the class card = OperatorCard(...), of erode.operator_card, "
                "which says what it promises, needs, keeps and costs"
            )

    @classmethod
    def refuses(cls, module: Module) -> str | None:
        """Why no settings would let it work on a module, with a remedy; None = some may. ``erode plan`` asks too."""
        return None

    def check_module(self, module: Module) -> None:
        """Refuse a module that these settings do not fit, whatever its weights. ``erode plan`` asks too."""
        if (why := self.refuses(module)) is not None:
            raise MisconfigurationException(why)

    def effort(self, batches: int | None) -> Effort:
        """What a run computes beside its steps, for data of so many batches (None = unknown). ``erode plan`` asks."""
        return Effort()

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse, with a remedy, what this operator cannot work with."""

    def remember(self, trainer: Trainer, module: LightningModule) -> None:
        """Copy what is needed of the original model, while its running statistics still stand."""

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Change the weights before the first step."""

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Take up a run from a checkpoint, whose weights the module holds; as a new run unless overridden."""
        self.prepare(trainer, module)

    def learns_retained(self, trainer: Trainer) -> bool:
        """Whether the coming batch goes through the network as retained data, so that running statistics follow."""
        return True

    def shortfall(self) -> str | None:
        """Why the weights must not be released although training ended; None = release them."""
        return None

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What the operator adds to the record after the last step."""
        return {}

    def renewed_buffers(self, module: Module) -> Collection[str]:
        """Names of buffers that :meth:`prepare` set anew with the weights, so that training may change them."""
        return ()

    def lineage(self, module: LightningModule) -> Ledger | None:
        """Ledger of the weights that :meth:`prepare` left, if it replaced all; None = it changed those it found."""
        return None
