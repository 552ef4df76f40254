"""Weights that an operator prepared, and that nobody but an optimiser may write from there on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from .hidden_state import check_registered
from .optimizers import check_unused
from .stale_copies import FromBefore, digest_of_tensor
from .unsaved_buffers import UnsavedBuffers
from .writes import Writes


class PreparedWeights:
    """Refuses a run whose weights come from somewhere else than its operator left, or than optimiser steps made them.

    A module that loads weights in a hook of its own, as a warm start does, comes after every callback: it would put the
    original weights back into a network that was just reset or noised. A callback that restores the best weights at
    the end may have kept them from before. A copy of them in a plain attribute would pull training back to them.

    Args:
        operator: name of the callback, for messages.
    """

    def __init__(self, operator: str) -> None:
        self._operator = operator
        self._left: dict[str, str] | None = None
        self._from_before = FromBefore(operator)
        self._writes = Writes(operator, self._from_before.holds)
        self._unsaved = UnsavedBuffers(operator)
        self._batches = 0
        self._resumed = False

    def note_original(self, module: nn.Module) -> None:
        """Note the parameters that the run began with, by their digests."""
        self._from_before.note(dict(module.named_parameters()))

    def note_noisy_start(
        self, trainer: Trainer, module: nn.Module, exposed: Mapping[str, Tensor], anchor: Mapping[str, Tensor]
    ) -> None:
        """Note the parameters that will get noise, and refuse copies of them that are there already.

        Raises:
            MisconfigurationException: naming a copy.
        """
        self._from_before.note(exposed)
        self._from_before.excuse(anchor.values())
        self._from_before.check_kept(trainer, module)

    def note(
        self, trainer: Trainer, module: LightningModule, renewed: Collection[str] = (), resumed: bool = False
    ) -> None:
        """Note the parameters that training has to start from, and the optimisers that may write them.

        A module that comes back to its start (``keeps_start``) comes back to what was prepared, and may write.

        Args:
            trainer: whose callbacks are looked at.
            module: as it was prepared.
            renewed: names of buffers that were set anew with its weights.
            resumed: whether a checkpoint restores the optimisers, which then remember steps of this very run.

        Raises:
            MisconfigurationException: where something keeps a copy of what they were before.
        """
        self._left = parameters_digest(module)
        self._from_before.settle(self._left.values())
        self._from_before.check_kept(trainer, module)
        self._resumed = resumed
        self._unsaved.note(module, renewed)
        self._batches = 0
        self._writes.stop()
        if not getattr(module, "keeps_start", False):
            self._writes.watch(trainer)

    def excuse(self, weights: Iterable[Tensor]) -> None:
        """Weights that never saw the forget set, such as the anchor's."""
        self._from_before.excuse(weights)

    def check_batch(self, trainer: Trainer, module: nn.Module) -> None:
        """Compare parameters with what was noted, at the first batch; at the second, what the first did to buffers.

        At the first, data and what hooks made or loaded since are looked through as well.

        Raises:
            MisconfigurationException: if a parameter, or a buffer that is not saved, holds another value; for a
                network that the module does not know, unless it is a copy of what was noted; or for optimisers that
                remember steps.
        """
        self._check_left(module)
        if self._left is not None:
            check_registered(trainer, module, self._operator, copies_of(self._left))
            if not self._resumed:
                check_unused(trainer)
        self._left = None
        self._batches += 1
        if self._batches == 2:  # most that change do so at each step, and nobody should train to the end for that
            self._unsaved.check(module)

    def check_step(self) -> None:
        """Look before an optimiser steps.

        Raises:
            MisconfigurationException: if something wrote the weights since the step before.
        """
        self._writes.before_step()

    def check(self, module: nn.Module) -> None:
        """Look between two steps, where there may have been no batch yet: at the end, or before weights are saved.

        Raises:
            MisconfigurationException: as the others.
        """
        self._check_left(module)
        self._writes.check()
        self._unsaved.check(module)

    def stop(self) -> None:
        """Nothing is prepared any more."""
        self._left = None
        self._from_before.forget()
        self._unsaved.forget()
        self._writes.stop()

    def _check_left(self, module: nn.Module) -> None:
        if self._left is not None and self._left != parameters_digest(module):
            raise MisconfigurationException(
                f"something wrote the weights after {self._operator} had prepared them and before the first batch, "
                "such as a hook that loads weights (on_fit_start, on_train_start …); load trained weights before fit, "
                "and let reset_parameters() of a layer, or an anchor, set what has to hold in the beginning"
            )


def copies_of(digests: Mapping[str, str]) -> Callable[[nn.Module], bool]:
    """Whether the parameters of a network are copies of some whose digests are known."""
    held = set(digests.values())
    return lambda network: all(digest_of_tensor(parameter) in held for parameter in network.parameters())


def parameters_digest(module: nn.Module) -> dict[str, str]:
    """Of each parameter, by name, without buffers: a forward pass may move those."""
    return {name: digest_of_tensor(parameter) for name, parameter in module.named_parameters()}
