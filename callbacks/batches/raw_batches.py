"""Batches as the loader gave them, before any hook of a module or DataModule changed them."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from ...lightning_state import datamodule_of

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
        sources = [source for source in (module, datamodule_of(trainer)) if source is not None]
        if not any(_overrides(source, hook) for source in sources for hook in HOOKS):
            return
        module._on_before_batch_transfer = _Watched(module, trainer, see)  # type: ignore[method-assign]
        self._module = module

    def stop(self) -> None:
        """Show no more."""
        if self._module is not None:
            del self._module._on_before_batch_transfer
        self._module = None


class _Watched:
    """Stands in for the method of one module; copies of that module get their own method back."""

    def __init__(self, module: LightningModule, trainer: Trainer, see: Callable[[Any], None]) -> None:
        self._module, self._trainer, self._see = module, trainer, see

    def __call__(self, batch: Any, dataloader_idx: int = 0) -> Any:
        if self._trainer.training:
            self._see(batch)
        return _method_of(self._module)(batch, dataloader_idx)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _method_of(memo.get(id(self._module), self._module))

    def __reduce__(self) -> tuple[Any, ...]:
        return _method_of, (self._module,)


def _method_of(module: LightningModule) -> Any:
    return MethodType(type(module)._on_before_batch_transfer, module)


def _overrides(source: Any, hook: str) -> bool:
    return is_overridden(hook, source) and getattr(source, hook).__module__.partition(".")[0] != OURS
