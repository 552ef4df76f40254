"""What an optimiser remembers, kept apart for a phase whose gradients are of another kind."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Entries = dict[int, dict[str, Any]]
"""State of each parameter, by its place among the parameters of all groups, as in an optimiser's ``state_dict``."""


class PhaseState:
    """A state of its own for a phase; that of all other steps waits, and goes on as if the phase had not been.

    Adam divides by a root mean square of past gradients that it hardly forgets within a thousand steps. One step on
    a loss whose gradients are ten times as large thus shortens all that come after it.

    Hyper-parameters, groups and schedule stay those of the optimiser. A phase begins with the state that the optimiser
    had when the run began: none for most, zeros for Adagrad.
    """

    def __init__(self) -> None:
        self._initial: Entries = {}
        self._phase: Entries | None = None
        self._optimizer: Optimizer | None = None
        self._waiting: dict[Tensor, dict[str, Any]] = {}

    def begin(self, optimizer: Optimizer) -> None:
        """At the beginning of a run, remember the state that each phase begins with."""
        self._initial, self._phase = copy.deepcopy(_entries(optimizer)), None

    def enter(self, optimizer: Optimizer) -> None:
        """For a batch of the phase, give the optimiser the phase's state."""
        self.leave()
        self._optimizer, self._waiting = optimizer, dict(optimizer.state)
        entries = copy.deepcopy(self._initial) if self._phase is None else self._phase
        _fill(optimizer, _loaded(optimizer, entries))

    def leave(self) -> None:
        """After the batch, give the optimiser the waiting state back; also after one that broke off."""
        if self._optimizer is not None:
            self._phase = _entries(self._optimizer)
            _fill(self._optimizer, self._waiting)
        self._optimizer, self._waiting = None, {}

    def end(self) -> None:
        """Forget the state of the phase: it is over."""
        self._phase = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint between two batches needs to keep."""
        return {"initial": self._initial, "phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._initial, self._phase = state_dict["initial"], state_dict["phase"]


def _fill(optimizer: Optimizer, state: dict[Tensor, dict[str, Any]]) -> None:
    optimizer.state.clear()  # in place: wrappers of an optimiser share the very dictionary
    optimizer.state.update(state)


def _entries(optimizer: Optimizer) -> Entries:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {n: optimizer.state[own] for n, own in enumerate(parameters) if own in optimizer.state}


def _loaded(optimizer: Optimizer, entries: Entries) -> dict[Tensor, dict[str, Any]]:
    """Entries as the optimiser's own rules of loading put them: on which device, in which dtype."""
    if not entries:
        return {}
    double = copy.copy(optimizer)  # loading gives it other dictionaries, and the optimiser keeps its own
    double.load_state_dict({**optimizer.state_dict(), "state": entries})
    return dict(double.state)
