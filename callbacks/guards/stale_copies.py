"""Copies of weights from before an operator changed them: what training could bring back (theory §4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from torch import Tensor, nn

from ...weights import state_digest
from .hidden_state import KNOWN, parts_of

_FEWEST = 8
"""Numbers of a tensor, at least, for it to tell where it comes from."""

_DEPTH = 3
"""Containers and objects within each other that are looked into."""


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
            if weight.numel() >= _FEWEST and bool((weight != weight.flatten()[0]).any()):
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

    def check_kept(self, module: nn.Module, callbacks: Iterable[Callback]) -> None:
        """Refuse copies in attributes of a module and its layers, its buffers, and attributes of callbacks.

        Raises:
            MisconfigurationException: naming the first.
        """
        own = {parameter.data_ptr() for parameter in module.parameters()}
        for place, value in _places(module, callbacks) if self._names else ():
            for tensor in _tensors_in(value, _DEPTH):
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
        if _kind(tensor) not in self._kinds:
            return None
        digest = digest_of_tensor(tensor)
        return None if digest in self._stay else self._names.get(digest)


def digest_of_tensor(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    return state_digest({"": tensor})


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tuple(tensor.shape), tensor.layout


def _places(module: nn.Module, callbacks: Iterable[Callback]) -> Iterator[tuple[str, Any]]:
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        yield from ((prefix + key, value) for key, value in vars(layer).items() if key not in KNOWN)
    yield from module.named_buffers()
    for callback in callbacks:
        if type(callback).__module__.startswith(f"{__name__.partition('.')[0]}."):
            continue  # ours: those that keep such weights, as the gallery does, only show what became of them
        yield from ((f"{type(callback).__name__}.{key}", value) for key, value in vars(callback).items())


def _tensors_in(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif depth:
        for part in parts_of(value):
            yield from _tensors_in(part, depth - 1)
