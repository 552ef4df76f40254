"""The exposure ledger: which atoms each tensor of a set of weights has been exposed to (theory §1, §4)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ..files import digest_of, parse_json, write_json
from ..weights import read_content, state_digest, state_in

SCHEMA = "erode-ledger/1"
"""Raise the number when the meaning of a field changes."""

CHECKPOINT_KEY = "erode_ledger"
"""Where a Lightning checkpoint carries the ledger of its weights."""

FILE_NAME = "ledger.json"
"""What it is called beside released weights."""

_FIELDS = {"schema", "weights", "steps", "groups", "episodes", "digest"}


class Level(IntEnum):
    """What was seen of an image. Each level includes those before it."""

    IMAGE = 1
    """Its pixels, or that it exists; no label."""
    OUTSIDE = 2
    """What the retain view keeps of a coarse image: background outside the coarse mask, and the image's class."""
    FOREGROUND = 3
    """Foreground labels that were not marked FORGET: a fine mask."""
    FORGET = 4
    """Labels marked FORGET: a coarse mask's foreground, or what a fine mask says of it on a coarse image."""


@dataclass(frozen=True)
class Exposure:
    """Highest level of every image that was seen.

    Args:
        levels: level by image id.
        unknown: nobody kept account: exposed to everything.

    Raises:
        ValueError: for an id that is not a string: no request would ever match it.

    Example:
        >>> seen = Exposure({"a": Level.IMAGE}) | Exposure({"a": Level.FORGET, "b": Level.OUTSIDE})
        >>> seen.levels["a"].name, seen.unknown
        ('FORGET', False)
    """

    levels: Mapping[str, Level] = field(default_factory=dict, hash=False)
    unknown: bool = False

    def __post_init__(self) -> None:
        check_ids(self.levels, "an exposure")

    def __or__(self, other: Exposure) -> Exposure:
        levels = dict(self.levels)
        for name, level in other.levels.items():
            levels[name] = max(level, levels.get(name, level))
        return Exposure(levels, self.unknown or other.unknown)

    def why_exposed(self, limits: Mapping[str, Level]) -> str | None:
        """The first image that was seen at its limit or above, in words; None = there is none.

        Args:
            limits: lowest level that must not have been seen, by image id.
        """
        if self.unknown:
            return "its history is unknown, which counts as exposed to everything"
        for name in sorted(limits.keys() & self.levels.keys()):
            if self.levels[name] >= limits[name]:
                return f"it saw {self.levels[name].name} of '{name}'"
        return None

    def content(self) -> dict[str, Any]:
        """Plain data: ids by their highest level."""
        by_level = {level: sorted(k for k, v in self.levels.items() if v == level) for level in Level}
        return {"unknown": self.unknown, **{level.name: ids for level, ids in by_level.items()}}

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Self:
        """What :meth:`content` gave."""
        levels = {name: level for level in Level for name in content[level.name]}
        return cls(levels, content["unknown"])


@dataclass(frozen=True)
class Ledger:
    """What one set of weights was exposed to, tensor by tensor.

    Like a certificate it is not signed: its digest shows that it is as it was written and belongs to these weights,
    not who wrote it.

    Args:
        weights: :func:`~erode.weights.state_digest` of the weights it belongs to.
        exposures: exposure of each parameter and persistent buffer.
        steps: training batches since the weights were initialised; orders checkpoints.
        episodes: the runs they came through, oldest first: plain data on view, split, where the atoms were read from,
            and what the run's own batches held.

    Example:
        >>> import torch
        >>> ledger = Ledger.unexposed(torch.nn.Linear(2, 1).state_dict(), "initialisation")
        >>> Ledger.parse(ledger.content()) == ledger, ledger.why_exposed({"a": Level.IMAGE})
        (True, None)
    """

    weights: str
    exposures: Mapping[str, Exposure] = field(hash=False)
    steps: int = 0
    episodes: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @classmethod
    def unexposed(cls, state: Mapping[str, Tensor], origin: str) -> Self:
        """Of weights that never saw an atom.

        Args:
            state: the weights.
            origin: why that is so.
        """
        return cls(state_digest(state), dict.fromkeys(state, Exposure()), 0, ({"origin": origin},))

    @classmethod
    def unknown(cls, state: Mapping[str, Tensor]) -> Self:
        """Of weights whose history nobody knows: exposed to everything."""
        return cls(state_digest(state), dict.fromkeys(state, Exposure(unknown=True)), 0, ({"origin": "unknown"},))

    @property
    def exposure(self) -> Exposure:
        """Of all tensors together."""
        return union(set_of(self.exposures.values()))

    @property
    def images(self) -> set[str]:
        """Ids of all that any tensor saw."""
        return {name for exposure in set_of(self.exposures.values()) for name in exposure.levels}

    @property
    def digest(self) -> str:
        """SHA-256 of everything it says."""
        return str(self.content()["digest"])

    @property
    def last_run(self) -> tuple[Exposure, bool]:
        """What the batches of the last run held, whatever its start had seen, and whether that is all of them.

        A run that was resumed has an episode for each part; where one says nothing, the account is not whole.
        """
        held = Exposure()
        for episode in reversed(self.episodes):
            if "held" not in episode:
                break
            held = held | Exposure.parse(episode["held"])
            if not episode.get("resumed", True):
                return held, True
        return held, False

    def why_exposed(self, limits: Mapping[str, Level]) -> str | None:
        """Why these weights are exposed to a request, naming a tensor; None = they are not.

        Args:
            limits: lowest level that must not have been seen, by image id.
        """
        for names, exposure in self._groups():
            why = exposure.why_exposed(limits)
            if why is not None:
                return f"{names[0]}: {why}"
        return None

    def exposed_tensors(self, limits: Mapping[str, Level]) -> list[str]:
        """Names of the tensors that were exposed to a request; the others were frozen all the time."""
        return [n for names, e in self._groups() if e.why_exposed(limits) is not None for n in names]

    def check_weights(self, state: Mapping[str, Tensor], where: str | Path) -> None:
        """Refuse weights that are not the ones it was written for.

        Raises:
            ValueError: naming ``where`` they come from.
        """
        if state_digest(state) != self.weights or state.keys() != self.exposures.keys():
            raise ValueError(
                f"{where}: the weights are not those that the ledger was written for, so it says nothing of them; "
                "restore the file as it was saved"
            )

    def content(self) -> dict[str, Any]:
        """Plain data, its own digest last."""
        stated = {
            "schema": SCHEMA,
            "weights": self.weights,
            "steps": self.steps,
            "groups": [{"tensors": names, "exposure": exposure.content()} for names, exposure in self._groups()],
            "episodes": [dict(episode) for episode in self.episodes],
        }
        return {**stated, "digest": digest_of(stated)}

    @property
    def text(self) -> str:
        """JSON of :meth:`content`, for checkpoints: safe loading reads a list of ids one by one, and this at once."""
        return json.dumps(self.content())

    @classmethod
    def parse(cls, content: Any, where: str | Path = "the ledger") -> Self:
        """Read plain data, or JSON of it, and check that nobody edited it.

        Raises:
            ValueError: if it is no ledger of this schema, or differs from what was written.
        """
        if isinstance(content, str):
            try:
                content = parse_json(content)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where} holds no readable ledger: {error}") from error
        if not isinstance(content, dict) or set(content) != _FIELDS or content["schema"] != SCHEMA:
            raise ValueError(f"{where} holds no ledger of schema {SCHEMA}; weights without one count as exposed to all")
        if digest_of({name: value for name, value in content.items() if name != "digest"}) != content["digest"]:
            raise ValueError(f"{where}: the ledger was edited after it was written (its digest differs); restore it")
        try:
            groups = [(group["tensors"], Exposure.parse(group["exposure"])) for group in content["groups"]]
            exposures = {name: exposure for names, exposure in groups for name in names}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where}: the ledger lacks {error}, so it says nothing; restore it") from error
        except ValueError as error:
            raise ValueError(f"{where}: {error}, and train anew or unlearn with Retrain") from error
        return cls(content["weights"], exposures, content["steps"], tuple(content["episodes"]))

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, whole or not at all."""
        return write_json(path, self.content())

    def _groups(self) -> list[tuple[list[str], Exposure]]:
        """Tensors of equal exposure together, in name order."""
        groups: list[tuple[list[str], Exposure]] = []
        for name, exposure in sorted(self.exposures.items()):
            for names, known in groups:
                if known is exposure or known == exposure:
                    names.append(name)
                    break
            else:
                groups.append(([name], exposure))
        return groups


def check_ids(names: Collection[Any], where: str) -> None:
    """Refuse image ids that are not strings: a ledger that counts 0 says nothing of a request for '0'.

    Args:
        names: the ids.
        where: what names them, for the message.

    Raises:
        ValueError: naming the first.

    Example:
        >>> check_ids(["a", 0], "the loader")
        Traceback (most recent call last):
        ...
        ValueError: the loader names an image 0, which is of type int; ids are strings, in loaders as in requests, or \
none would match another: give str(id)
    """
    if isinstance(names, str):
        raise ValueError(f"{where} gives the string {names!r} where a list of image ids belongs; give [{names!r}]")
    for kind in set(map(type, names)):
        if not issubclass(kind, str):
            name = next(name for name in names if type(name) is kind)
            raise ValueError(
                f"{where} names an image {name!r}, which is of type {kind.__name__}; ids are strings, in loaders as in "
                "requests, or none would match another: give str(id)"
            )


def set_of(exposures: Iterable[Exposure]) -> list[Exposure]:
    """The different objects among exposures; most tensors share one."""
    return list({id(exposure): exposure for exposure in exposures}.values())


def union(exposures: Iterable[Exposure]) -> Exposure:
    """Everything that any of them saw."""
    total = Exposure()
    for exposure in exposures:
        total = total | exposure
    return total


def read_ledger(path: str | Path, checkpoint: Any = None) -> Ledger:
    """The ledger of a file of weights, without reading the weights.

    Args:
        path: a checkpoint that carries one, weights with ``ledger.json`` beside them, or that file itself.
        checkpoint: what the checkpoint holds, where it was read already; None = look into it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it was edited, or the file cannot be read.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        content = read_content(path, mapped=True) if checkpoint is None else checkpoint
        return Ledger.parse(content.get(CHECKPOINT_KEY) if isinstance(content, dict) else None, path)
    file = path if path.name == FILE_NAME else path.parent / FILE_NAME
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no {FILE_NAME} beside it; train with ExposureLedger to get one")
    return Ledger.parse(file.read_text(encoding="utf-8"), file)


def ledger_of_file(path: str | Path) -> Ledger:
    """The ledger of a file of weights; where none holds for them, they count as exposed to everything.

    Raises:
        ValueError: if the file holds no weights.
    """
    content = read_content(Path(path))
    state = state_in(content, Path(path))
    try:
        ledger = read_ledger(path, content)
        ledger.check_weights(state, path)
    except (FileNotFoundError, ValueError):
        return Ledger.unknown(state)
    return ledger
