"""What an optimiser remembers, kept out of a phase whose gradients are of another kind."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Entries = dict[int, dict[str, Any]]
"""State of each parameter, by its place among the parameters of all groups, as in an optimiser's ``state_dict``."""


class PhaseState:
    """A copy of an optimiser's state for a phase; all other steps go on from the original.

    Adam and its kin keep a running mean of gradients, which pushes on for some ten steps, and one of their squares,
    which shortens steps for hundreds: what one step on a loss with gradients ten times as large leaves there would
    act on all that come after it. The phase itself begins with what was learnt of the scale of each weight.

    Hyper-parameters, groups and schedule stay those of the optimiser.
    """

    def __init__(self) -> None:
        self._phase: Entries | None = None
        self._optimizer: Optimizer | None = None
        self._waiting: dict[Tensor, dict[str, Any]] = {}

    def enter(self, optimizer: Optimizer) -> None:
        """For a batch of the phase, give the optimiser the phase's state."""
        self.leave()
        self._optimizer, self._waiting = optimizer, dict(optimizer.state)
        entries = copy.deepcopy(_entries(optimizer)) if self._phase is None else self._phase
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
        return {"phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._phase = state_dict["phase"]


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
