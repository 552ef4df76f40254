"""Weights that something wrote between an operator's last word and the first batch of training."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from ...weights import state_digest


class FirstBatch:
    """Refuses a run whose first batch meets other parameters than its operator left.

    A module that loads weights in a hook of its own, as a warm start does, comes after every callback: it would put the
    original weights back into a network that was just reset or noised.

    Args:
        operator: name of the callback, for messages.
    """

    def __init__(self, operator: str) -> None:
        self._operator = operator
        self._left: str | None = None

    def note(self, module: nn.Module) -> None:
        """Note the parameters that training has to start from."""
        self._left = parameters_digest(module)

    def check(self, module: nn.Module) -> None:
        """Compare, once.

        Raises:
            MisconfigurationException: if a parameter holds another value.
        """
        if self._left is not None and self._left != parameters_digest(module):
            raise MisconfigurationException(
                f"something wrote the weights after {self._operator} had prepared them and before the first batch, "
                "such as a hook that loads weights (on_fit_start, on_train_start …); load trained weights before fit, "
                "and let reset_parameters() of a layer, or an anchor, set what has to hold in the beginning"
            )
        self._left = None


def parameters_digest(module: nn.Module) -> str:
    """Of all parameters, without buffers: a forward pass may move those."""
    return state_digest(dict(module.named_parameters()))
