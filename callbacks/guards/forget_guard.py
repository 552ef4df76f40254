"""Forget atoms in what a run looks at (theory §1)."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor

from ...batch import Role
from ...masks import View
from ..batches.raw_batches import RawBatches
from ..batches.served import pair_of, roles_of
from .deferred import DeferredCheck


class HasView(Protocol):
    """Something that trains on one view of the labels, or on pairs of batches whose one half is to be forgotten."""

    view: View
    asks_for_forget: ClassVar[bool]


class ForgetGuard:
    """Refuses batches that mark pixels as FORGET; a CUDA device tells a batch later.

    Args:
        operator: whose view a loader of ours should serve; asked when it is needed, for some settle it late.
    """

    def __init__(self, operator: HasView) -> None:
        self._operator = operator
        self._training = DeferredCheck(self._refuse_training)
        self._validation = DeferredCheck(self._refuse_validation)
        self._raw = RawBatches()

    def watch(self, trainer: Trainer) -> None:
        """Look at batches of training before hooks of somebody's own, too: they may take the marks away."""
        self._raw.watch(trainer, lambda batch: self.see_now(self._retained(batch)))

    def stop(self) -> None:
        """Look at them no more."""
        self._raw.stop()

    def see(self, batch: Any) -> None:
        """Look at a batch of training."""
        _ask(self._training, self._retained(batch))

    def see_validation(self, batch: Any) -> None:
        """Look at a batch of validation, which steers the run."""
        _ask(self._validation, batch)

    def see_now(self, batch: Any) -> None:
        """Look at what was read of the training set beside the batches, and wait for the answer."""
        if (served := _marked(batch)) is not None and bool(served):
            raise self._refuse_training()

    def settle(self) -> None:
        """Wait for the answers of the last batches.

        Raises:
            MisconfigurationException: if they held forget atoms.
        """
        self._training.settle()
        self._validation.settle()

    def _retained(self, batch: Any) -> Any:
        return pair_of(batch, type(self._operator).__name__)["retain"] if self._operator.asks_for_forget else batch

    def _refuse_training(self) -> MisconfigurationException:
        return MisconfigurationException(
            f"the training loader still serves forget atoms to {type(self._operator).__name__}: serve the view "
            f"'{self._operator.view.value}' instead (MaskDataModule.serve), or leave out what is marked FORGET"
        )

    def _refuse_validation(self) -> MisconfigurationException:
        return MisconfigurationException(
            f"a validation loader serves forget atoms to {type(self._operator).__name__}, and its scores steer the run "
            "(they stop it and choose among its weights): validate on images that are not to be forgotten"
        )


def _ask(check: DeferredCheck, batch: Any) -> None:
    if (served := _marked(batch)) is not None:
        check.ask(served)


def _marked(batch: Any) -> Tensor | None:
    marks = [(role == Role.FORGET).any() for role in roles_of(batch)]
    return torch.stack([mark.to(marks[0].device) for mark in marks]).any() if marks else None
