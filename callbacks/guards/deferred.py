"""Questions to a GPU that it is not made to wait for (theory §4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class DeferredCheck:
    """Refuses what a number on a device tells: at once, or on a CUDA device when the answer has arrived.

    Asking a GPU for a number makes the host wait until everything queued before is done, which leaves the GPU idle
    after each step. Here the answer is copied to the host behind the work, and read when that is queued which
    comes next. An answer that comes late still comes before anything leaves the run, and a refusal stays one: whoever
    asks or looks later, say to save what the run has come to, is refused, too.

    Args:
        refusal: makes the exception.

    Example:
        >>> check = DeferredCheck(lambda: ValueError("no"))
        >>> check.ask(torch.tensor(False)), check.settle()
        (None, None)
    """

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        self._refusal = refusal
        self._answer: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None
        self._refused = False

    def ask(self, refused: Tensor) -> None:
        """Ask whether to refuse; one answer is awaited at a time.

        Args:
            refused: one boolean.

        Raises:
            Exception: the refusal, on any device but CUDA; there, that of a question before.
        """
        self._check()
        if refused.device.type != "cuda":
            self._demand(refused)
            return
        self.settle()
        if self._answer is None:
            self._answer = torch.empty((), dtype=torch.bool, pin_memory=True)
        self._answer.copy_(refused, non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record(torch.cuda.current_stream(refused.device))

    def poll(self) -> None:
        """Read the answer if it is there.

        Raises:
            Exception: the refusal.
        """
        if self._arrived is None or self._arrived.query():  # type: ignore[no-untyped-call]
            self.settle()

    def settle(self) -> None:
        """Wait for the answer.

        Raises:
            Exception: the refusal.
        """
        if self._arrived is not None and self._answer is not None:
            self._arrived.synchronize()
            self._arrived = None
            self._demand(self._answer)
        self._check()

    def _demand(self, refused: Tensor) -> None:
        self._refused |= bool(refused)
        self._check()

    def _check(self) -> None:
        if self._refused:
            raise self._refusal()
