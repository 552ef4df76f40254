"""Copies of weights from before an operator changed them: what training could bring back (theory §4)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...weights import state_digest
from .hidden_state import FEWEST
from .objects import found_in, places


class FromBefore:
    """Knows weights that a run has to get rid of, by their digests, and refuses copies of them.

    A penalty towards the start (L2-SP, FedProx, EWC) pulls back to a copy in a plain attribute, which no reset and no
    noise reaches. Only whole tensors, bit for bit, are found; few numbers and constants tell nothing.

    Args:
        operator: name of the callback, for messages.
    """

    def __init__(self, operator: str) -> None:
        self._operator = operator
        self._names: dict[str, str] = {}
        self._kinds: set[tuple[Any, ...]] = set()
        self._stay: set[str] = set()

    def note(self, weights: Mapping[str, Tensor]) -> None:
        """Weights, by name, that have to go."""
        for name, weight in weights.items():
            if is_lazy(weight) or weight.is_meta:
                continue
            if weight.numel() >= FEWEST and bool((weight != weight.flatten()[0]).any()):
                self._names[digest_of_tensor(weight)] = name
                self._kinds.add(_kind(weight))

    def excuse(self, weights: Iterable[Tensor]) -> None:
        """Weights that never saw the forget set, such as the anchor's."""
        for weight in weights:
            if _kind(weight) in self._kinds:
                self._names.pop(digest_of_tensor(weight), None)

    def settle(self, digests: Iterable[str]) -> None:
        """What the operator left as it was, such as a frozen layer that the anchor holds too, has not to go yet."""
        self._stay = set(digests)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is one that had to go."""
        return self._name_of(tensor) is not None

    def check_kept(self, trainer: Trainer, module: nn.Module) -> None:
        """Refuse copies in buffers, and in attributes of a module and its layers, the DataModule, and callbacks.

        Raises:
            MisconfigurationException: naming the first.
        """
        own = {parameter.data_ptr() for parameter in module.parameters()}
        seen: tuple[dict[int, int], dict[int, int]] = {}, {}
        everywhere = itertools.chain(places(trainer, module), module.named_buffers()) if self._names else ()
        for place, value in everywhere:
            for tensor in _tensors_in(value, seen):
                name = self._name_of(tensor)
                if name is not None and tensor.data_ptr() not in own:
                    raise MisconfigurationException(
                        f"{place} keeps a copy of {name} from before {self._operator} reset it or gave it noise, as "
                        "a penalty towards the start does (L2-SP, FedProx, EWC): training could bring back what is to "
                        "be forgotten; copy weights in a later fit, on the released ones, or keep those of a model "
                        "that never saw the forget set"
                    )

    def forget(self) -> None:
        """Know of none any more."""
        self._names, self._kinds, self._stay = {}, set(), set()

    def _name_of(self, tensor: Tensor) -> str | None:
        if tensor.is_meta or tensor.is_nested or _kind(tensor) not in self._kinds:
            return None
        digest = digest_of_tensor(tensor)
        return None if digest in self._stay else self._names.get(digest)


def digest_of_tensor(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    return state_digest({"": tensor})


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tuple(tensor.shape), tensor.layout


def _tensors_in(value: Any, seen: tuple[dict[int, int], dict[int, int]]) -> Iterator[Tensor]:
    yield from found_in(value, Tensor, seen[0])
    for network in found_in(value, nn.Module, seen[1]):
        yield from network.parameters()
