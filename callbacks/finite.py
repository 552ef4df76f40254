"""Learning that a step was not finite without making a GPU wait for the answer (theory §4)."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteWatch:
    """Refuses vectors that are not finite: at once, or on a CUDA device when the answer has arrived.

    Asking a GPU for a number makes the host wait until everything queued before is done, which leaves the GPU idle
    after each step. Here the answer is copied to the host behind the step, and :meth:`settle` reads it later, when
    the next step is already queued.

    Example:
        >>> watch = FiniteWatch()
        >>> watch.note(torch.tensor(1.0)), watch.settle()
        (None, None)
    """

    def __init__(self) -> None:
        self._answer: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def note(self, norm: Tensor) -> None:
        """Ask whether a norm is finite.

        Raises:
            FloatingPointError: if it is not, on any device but CUDA.
        """
        if norm.device.type != "cuda":
            check_finite(norm)
            return
        self.settle()
        if self._answer is None:
            self._answer = torch.empty((), dtype=torch.bool, pin_memory=True)
        self._answer.copy_(torch.isfinite(norm), non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record(torch.cuda.current_stream(norm.device))

    def settle(self) -> None:
        """Wait for the last answer.

        Raises:
            FloatingPointError: if that norm was not finite.
        """
        if self._arrived is not None and self._answer is not None:
            self._arrived.synchronize()
            _demand(bool(self._answer))


def check_finite(norm: Tensor) -> None:
    """Refuse a vector whose norm is infinite or no number."""
    _demand(bool(torch.isfinite(norm)))


def _demand(finite: bool) -> None:
    if not finite:
        raise FloatingPointError(
            "the gradient (or the weights) of the noisy phase is not finite, so the step cannot be certified; "
            "look for the batch that makes the loss infinite, or lower the learning rate"
        )
