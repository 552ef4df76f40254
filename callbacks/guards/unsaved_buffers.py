"""Buffers that no checkpoint holds, and so no reset, anchor or noise reaches."""

from __future__ import annotations

from collections.abc import Collection

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from ...objectives import ClassificationObjective


class UnsavedBuffers:
    """Refuses a run in which a buffer changes that is not saved: it may have learnt from the forget set before.

    A teacher's average or a centre of features, registered with ``persistent=False``, outlives a reset of all weights
    and any noise on them, and training on retained data follows it. Constants, such as kernels and thresholds, stay
    as they are; that they hold nothing of the forget set is the owner's word. Objectives start anew with each fit.

    Args:
        operator: name of the callback, for messages.
    """

    def __init__(self, operator: str) -> None:
        self._operator = operator
        self._before: dict[str, Tensor] = {}

    def note(self, module: nn.Module, renewed: Collection[str] = ()) -> None:
        """Note what stands in them.

        Args:
            module: in training.
            renewed: names of buffers that were just set anew, which may change.
        """
        self._before = {name: b.detach().clone() for name, b in _unsaved(module).items() if name not in renewed}

    def check(self, module: nn.Module) -> None:
        """Compare.

        Raises:
            MisconfigurationException: naming the first that changed.
        """
        now = _unsaved(module) if self._before else {}
        for name, before in self._before.items():
            buffer = now.get(name)
            if buffer is None or not unchanged(buffer, before.to(buffer.device)):
                raise MisconfigurationException(
                    f"the buffer {name}, which is not saved with the weights, changed in the run: it was there "
                    f"before, so {self._operator} cannot tell that it carries nothing of the forget set into training; "
                    "register it with persistent=True, let reset_parameters() of its layer set it, or keep it out of "
                    "the run"
                )

    def forget(self) -> None:
        """Nothing is compared any more."""
        self._before = {}


def unchanged(now: Tensor, before: Tensor) -> bool:
    """Whether two tensors are the same, NaN for NaN: that is how people write that nothing was measured yet."""
    if now.shape != before.shape or now.dtype != before.dtype:
        return False
    same = now == before
    if now.is_floating_point() or now.is_complex():
        same |= now.isnan() & before.isnan()
    return bool(same.all())


def _unsaved(module: nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict().keys()
    found: dict[str, Tensor] = {}
    for prefix, owner in module.named_modules():
        if isinstance(owner, ClassificationObjective):
            continue
        for name, buffer in owner.named_buffers(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            if full not in saved:
                found[full] = buffer
    return found
