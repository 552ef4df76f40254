"""Which atoms a batch holds, read off the batch itself or from what its owner says (theory §1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from ...batch import NO_PRIOR, Role
from ...masks import ForgetSplit, View
from ...requests.ledger import Exposure, Level, check_ids, union

ServedAtoms = Callable[[Any], Mapping[str, str]] | Mapping[str, Sequence[str]]
"""What a loader serves: a function from a batch to the level of each image, or image ids by level for all batches."""

_NO_LABELS = {"image", "id", "counted"}
"""Entries of a batch that says nothing of any label."""


class AtomReader:
    """Reads the exposure that a batch means.

    In this order: what the owner declares (``atoms``); an entry ``atoms`` of the batch, a list of ``"LEVEL:id"``;
    ``id`` and ``role`` as in :mod:`erode.batch`; ``id`` and nothing but the image. Several batches in one (a dict, list
    or tuple of batches, or a batch among the entries of another) are read one by one, and one that cannot be read is
    refused. Of a DataModule of ours it also counts what the view serves beyond the batch at hand: a crop may cut the
    ring out, but chose its place by it.

    Args:
        atoms: for loaders of someone else's: a function from a batch to the name of the level
            (:class:`~erode.requests.Level`) of each image id in it, or image ids by level that any batch may hold (the
            highest counts of an id that stands under several). Ids are strings, as in requests.

    Raises:
        ValueError: if ``atoms`` names no level, or an id is not a string.

    Example:
        >>> AtomReader()({"image": None, "atoms": ["forget:a", "outside:b"]}).content()["FORGET"]
        ['a']
    """

    def __init__(self, atoms: ServedAtoms | None = None) -> None:
        self._declared: Exposure | None = None
        self._function: Callable[[Any], Mapping[str, str]] | None = None
        if callable(atoms):
            self._function = atoms
        elif atoms is not None:
            for names in atoms.values():
                check_ids(names, "atoms=")
            self._declared = union(Exposure(dict.fromkeys(names, _level(level))) for level, names in atoms.items())

    def __call__(self, batch: Any, data: Any = None, training: bool = True) -> Exposure:
        """The exposure of one batch.

        Args:
            batch: anything.
            data: the DataModule, or None.
            training: whether it is a training batch.

        Raises:
            MisconfigurationException: if nothing says which atoms it holds, or an id is not a string.
        """
        if self._declared is not None:
            return self._declared
        if self._function is not None:
            levels = self._function(batch)
            _check_ids(levels, "the function atoms=")
            return Exposure({name: _level(level) for name, level in levels.items()})
        return _read(batch, data, training)


def source_of(reader: AtomReader) -> str:
    """Where it reads from, for the ledger."""
    return "batches" if reader._declared is None and reader._function is None else "declared by the loader's owner"


def _read(batch: Any, data: Any, training: bool) -> Exposure:
    """What a batch and all batches in it hold."""
    own, marks = _own(batch, data, training)
    if own is not None:
        return union([own, *(_read(part, data, training) for part in _inner(batch) if _holds(part, marks))])
    parts = _entries(batch)
    if parts and all(isinstance(part, Mapping) or is_dataclass(part) for part in parts):
        return union(_read(part, data, training) for part in parts)
    raise MisconfigurationException(
        "nothing says which atoms a batch holds, or one that stands in it; let the loader add 'atoms', a list of "
        f"'LEVEL:id' ({', '.join(level.name.lower() for level in Level)}), serve 'id' and 'role' as erode.batch "
        "defines them, or give atoms= a function of the batch or the ids by level"
    )


def _own(batch: Any, data: Any, training: bool) -> tuple[Exposure | None, set[str]]:
    """What a batch says of itself, None = nothing; and the keys by which an entry is a batch that has to speak too."""
    batch = _named(batch)
    if "atoms" in batch:
        # The owner speaks for the whole batch, in which "id" may mean anything.
        return _of_list(batch["atoms"]), {"atoms", "role"}
    if "id" in batch:
        _check_ids(batch["id"], "the entry 'id' of a batch")
        if {"role", "mask"} <= batch.keys():
            return _of_roles(batch, data, training), {"atoms", "role", "id"}
        if set(batch) <= _NO_LABELS and not list(_inner(batch)):
            return Exposure(dict.fromkeys(batch["id"], Level.IMAGE)) | _whole_set(data, training), set()
    return None, set()


def _of_list(atoms: Collection[Any]) -> Exposure:
    pairs = [str(entry).partition(":") for entry in atoms]
    if nameless := [level for level, _, name in pairs if not name]:
        raise MisconfigurationException(
            f"the entry 'atoms' of a batch holds {nameless[0]!r}, which names no image; each is 'LEVEL:id'"
        )
    return union(Exposure({name: _level(level)}) for level, _, name in pairs)


def _named(value: Any) -> Mapping[str, Any]:
    """The entries of a dict or dataclass by name; of anything else none."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in fields(value)}
    return value if isinstance(value, Mapping) else {}


def _entries(value: Any) -> list[Any]:
    return list(value if isinstance(value, list | tuple) else _named(value).values())


def _inner(batch: Any) -> Iterator[Any]:
    """The dicts and dataclasses among the entries of a batch, in lists and tuples too; not those within them."""
    for part in _entries(batch):
        if _named(part):
            yield part
        elif isinstance(part, list | tuple):
            yield from _inner(part)


def _holds(batch: Any, marks: set[str]) -> bool:
    """Whether a batch, or one in it, says of images by one of some keys; a patient's record may have an id too."""
    named = _named(batch)
    says = {"atoms": "atoms" in named, "role": isinstance(named.get("role"), Tensor), "id": {"id", "image"} <= {*named}}
    return any(says[mark] for mark in marks) or any(_holds(part, marks) for part in _inner(batch))


def _of_roles(batch: Mapping[str, Any], data: Any, training: bool) -> Exposure:
    role, mask = batch["role"].flatten(1), batch["mask"].flatten(1)
    forget = (role == Role.FORGET).any(1)
    foreground = ((role == Role.RETAIN) & (mask != 0)).any(1)
    levels: dict[str, Level] = {}
    for name, has_forget, has_foreground in zip(batch["id"], forget.tolist(), foreground.tolist(), strict=True):
        level = Level.FORGET if has_forget else Level.FOREGROUND if has_foreground else Level.OUTSIDE
        levels[name] = max(level, levels.get(name, level))
    seen = Exposure(levels)
    if training and hasattr(data, "serve"):
        served = _served(View(data.view), frozenset(data.split.fine))
        seen = seen | Exposure({name: served(name) for name in levels}) | _whole_set(data, training)
    prior = batch.get("prior")
    if isinstance(prior, Tensor) and bool((prior != NO_PRIOR).any()):
        split = data.split if isinstance(getattr(data, "split", None), ForgetSplit) else None
        # The prior was fitted on all fine masks, also on those of images that no batch has held yet.
        fitted_on = Exposure(unknown=True) if split is None else Exposure(dict.fromkeys(split.fine, Level.FOREGROUND))
        seen = seen | fitted_on
    return seen


def _check_ids(names: Collection[Any], where: str) -> None:
    try:
        check_ids(names, where)
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error


def _served(view: View, fine: frozenset[str]) -> Callable[[str], Level]:
    """What a view may serve of an image."""
    if view is View.COARSE:
        return lambda name: Level.FORGET
    if view is View.RETAIN:
        return lambda name: Level.FOREGROUND if name in fine else Level.OUTSIDE
    return lambda name: Level.FOREGROUND


def _whole_set(data: Any, training: bool) -> Exposure:
    """Drawing rare classes more often makes every draw depend on the classes of all training images."""
    if not training or not getattr(data, "class_balance", 0):
        return Exposure()
    return Exposure({case.id: Level.OUTSIDE for case in data.part("train")})


def _level(name: str) -> Level:
    try:
        return Level[str(name).upper()]
    except KeyError:
        names = ", ".join(level.name.lower() for level in Level)
        raise ValueError(f"{name!r} is no level of exposure; use one of {names}") from None
