"""Batches as the loader gave them, before any hook of a module or DataModule changed them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
OURS = __name__.partition(".")[0]
"""Hooks of our own DataModules leave marks as they are."""


class RawBatches:
    """Shows batches to somebody on their way to the hooks between loader and device, where there are such hooks.

    Without them a batch arrives as it was, and callbacks see it in time.
    """

    def __init__(self) -> None:
        self._module: LightningModule | None = None

    def watch(self, trainer: Trainer, see: Callable[[Any], None]) -> None:
        """Show batches of training from now on.

        Args:
            trainer: about to fit.
            see: is given each batch, on the host; may raise.
        """
        self.stop()
        module = trainer.lightning_module
        sources = [source for source in (module, getattr(trainer, "datamodule", None)) if source is not None]
        if not any(_overrides(source, hook) for source in sources for hook in HOOKS):
            return
        transfer = module._on_before_batch_transfer

        def watched(batch: Any, dataloader_idx: int = 0) -> Any:
            if trainer.training:
                see(batch)
            return transfer(batch, dataloader_idx)

        module._on_before_batch_transfer = watched  # type: ignore[method-assign]
        self._module = module

    def stop(self) -> None:
        """Show no more."""
        if self._module is not None:
            del self._module._on_before_batch_transfer
        self._module = None


def _overrides(source: Any, hook: str) -> bool:
    return is_overridden(hook, source) and getattr(source, hook).__module__.partition(".")[0] != OURS
