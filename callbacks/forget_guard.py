"""Forget atoms in what a run looks at (theory §1)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from ..batch import Role
from ..masks import View
from .deferred import DeferredCheck
from .served import roles_of


class HasView(Protocol):
    """Something that trains on one view of the labels."""

    view: View


class ForgetGuard:
    """Refuses batches that mark pixels as FORGET; a CUDA device tells a batch later.

    Args:
        operator: whose view a loader of ours should serve; asked when it is needed, for some settle it late.
    """

    def __init__(self, operator: HasView) -> None:
        self._operator = operator
        self._served = DeferredCheck(self._refusal)

    def see(self, batch: Any) -> None:
        """Look at a batch of training, or of validation, which steers the run."""
        if (served := _marked(batch)) is not None:
            self._served.ask(served)

    def see_now(self, batch: Any) -> None:
        """Look at what was read beside the batches, and wait for the answer."""
        if (served := _marked(batch)) is not None and bool(served):
            raise self._refusal()

    def settle(self) -> None:
        """Wait for the answer of the last batch.

        Raises:
            MisconfigurationException: if it held forget atoms.
        """
        self._served.settle()

    def _refusal(self) -> MisconfigurationException:
        return MisconfigurationException(
            f"a loader still serves forget atoms to {type(self._operator).__name__}: for training, serve the view "
            f"'{self._operator.view.value}' instead (MaskDataModule.serve); validation steers the run, so keep them "
            "out of it too"
        )


def _marked(batch: Any) -> Tensor | None:
    marks = [(role == Role.FORGET).any() for role in roles_of(batch)]
    return torch.stack(marks).any() if marks else None
