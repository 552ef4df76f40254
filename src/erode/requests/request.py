"""Forget requests: which atoms of which images must leave no trace (theory §1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from ..files import digest_of
from ..masks import ForgetSplit
from .ledger import Level, check_ids

RequestedAtoms = Literal["image", "outside", "foreground", "forget"]
"""Lowest :class:`~erode.requests.Level` that a request takes back of each image."""


@dataclass(frozen=True)
class ForgetRequest:
    """For each image, the lowest level of exposure that offends.

    Make one with :meth:`of`.

    Args:
        limits: level by image id; weights that saw an image at this level or above have to go.
        listed: ids that come from a split, which names the images of a data set: nobody typed them.

    Raises:
        ValueError: if it asks for nothing, or an id is not a string.

    Example:
        >>> split = ForgetSplit.given(["a"], ["b"], coarsening={})
        >>> {name: level.name for name, level in ForgetRequest.of(split).limits.items()}
        {'b': 'FOREGROUND', 'a': 'FORGET'}
    """

    limits: Mapping[str, Level] = field(hash=False)
    listed: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        check_ids(self.limits, "the request")
        if not self.limits:
            raise ValueError("the request names no image, so there is nothing to forget; give ids or a split")

    @classmethod
    def of(
        cls, request: ForgetRequest | ForgetSplit | Sequence[str] | str | Path, atoms: RequestedAtoms = "image"
    ) -> Self:
        """A request from what people have at hand.

        Args:
            request: a split, or its file: takes back every foreground atom of its coarse images, and what is marked
                FORGET of its fine ones (their rings). Or image ids.
            atoms: for ids: what to take back of each. ``image`` = everything, ``outside`` = every label,
                ``foreground`` = foreground labels, fine or coarse, ``forget`` = coarse foreground labels.

        Raises:
            ValueError: if there is no such file, it is no split, or an id is not a string.
        """
        if isinstance(request, ForgetRequest):
            return cls(request.limits, request.listed)
        if isinstance(request, str | Path):
            if not Path(request).is_file():
                raise ValueError(f"there is no split at {request}; give a split.json, or a list of image ids")
            request = ForgetSplit.load(request)
        if isinstance(request, ForgetSplit):
            coarse, fine = dict.fromkeys(request.coarse, Level.FOREGROUND), dict.fromkeys(request.fine, Level.FORGET)
            return cls({**coarse, **fine}, frozenset([*coarse, *fine]))
        return cls(dict.fromkeys(request, Level[atoms.upper()]))

    @classmethod
    def union(cls, requests: Iterable[ForgetRequest]) -> Self:
        """All that any of several takes back.

        Example:
            >>> both = ForgetRequest.union([ForgetRequest.of(["a"]), ForgetRequest.of(["a", "b"], "forget")])
            >>> {name: level.name for name, level in both.limits.items()}
            {'a': 'IMAGE', 'b': 'FORGET'}
        """
        limits: dict[str, Level] = {}
        listed: frozenset[str] = frozenset()
        for request in requests:
            listed |= request.listed
            for name, level in request.limits.items():
                limits[name] = min(level, limits.get(name, level))
        return cls(limits, listed)

    @property
    def digest(self) -> str:
        """SHA-256 of what it asks for."""
        return digest_of(self.content())

    def content(self) -> dict[str, str]:
        """Plain data: name of the level by image id."""
        return {name: level.name for name, level in sorted(self.limits.items())}

    @classmethod
    def parse(cls, content: Mapping[str, str]) -> Self:
        """What :meth:`content` gave."""
        return cls({name: Level[level] for name, level in content.items()})

    def describe(self) -> str:
        """One line for people and records.

        Example:
            >>> ForgetRequest.of(["b", "a"]).describe()
            '2 images from IMAGE on: a, b'
        """
        levels = sorted(set(self.limits.values()))
        names = sorted(self.limits)
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        return f"{len(names)} images from {' or '.join(level.name for level in levels)} on: {shown}"
