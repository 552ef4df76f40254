"""Which images keep their fine masks (F) and which have coarse ones only (C) (theory §1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import digest_of, parse_json, write_json

SCHEMA = 1
"""Version of the file format; raise it when the meaning of a field changes."""


@dataclass(frozen=True)
class ForgetSplit:
    """Images with fine masks (F, retained), and with coarse masks only (C, whose foreground is forgotten).

    Make one with `draw` or `given`.

    Args:
        fine: ids of F.
        coarse: ids of C.
        coarsening: description of what made the coarse masks, as `Coarsening.describe` gives it.
        fine_fraction: the share of F that was asked for; None where the data decided.
        seed: seed of the draw; None where the data decided.

    Raises:
        ValueError: if F or C is empty, an id occurs twice, or an id is in both.

    Example:
        >>> ids = [f"case-{i}" for i in range(20)]
        >>> classes = [i % 2 for i in range(20)]
        >>> split = ForgetSplit.draw(ids, strata=classes, fine_fraction=0.1, seed=0, coarsening={})
        >>> len(split.fine), split.forget_fraction
        (2, 0.9)
    """

    fine: tuple[str, ...]
    coarse: tuple[str, ...]
    coarsening: Mapping[str, Any] = field(hash=False)
    fine_fraction: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("fine", "coarse"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
            _check_unique(getattr(self, name))
        if not self.fine:
            raise ValueError("the fine set is empty, so nothing would be retained; annotate at least one image finely")
        if not self.coarse:
            raise ValueError("every image has a fine mask, so there is nothing to forget; train on the fine masks")
        both = sorted({*self.fine} & {*self.coarse})
        if both:
            raise ValueError(
                f"{len(both)} ids are in the fine and in the coarse set, e.g. '{both[0]}'; keep one of them"
            )

    @classmethod
    def draw(
        cls,
        ids: Sequence[str],
        strata: Sequence[Hashable],
        fine_fraction: float,
        seed: int,
        coarsening: Mapping[str, Any],
    ) -> ForgetSplit:
        """Draw F at random, the same share from every stratum.

        ``|F| = round(fine_fraction · n)``, but at least 1; strata share it by largest remainder. The draw
        depends on the seed, the ids and which of them share a stratum, not on the order in which they come.

        Args:
            ids: ``[n]`` unique names.
            strata: ``[n]`` stratum of each image, such as its (class, artefact flag).
            fine_fraction: share of F, between 0 and 1, both excluded.
            seed: seed of a PCG64 generator. NumPy may change its streams one day: keep the saved split.
            coarsening: as for the class.

        Raises:
            ValueError: if the fraction is out of range, or leaves no image in C.
        """
        _check_unique(ids)
        if not 0 < fine_fraction < 1:
            why = "nothing to forget" if fine_fraction >= 1 else "fine set empty"
            raise ValueError(f"fine_fraction = {fine_fraction}: {why}; use a share between 0 and 1, such as 0.1")
        members: dict[Hashable, list[str]] = {}
        for name, stratum in sorted(zip(ids, strata, strict=True), key=lambda pair: pair[0]):
            members.setdefault(stratum, []).append(name)
        groups = list(members.values())  # in the order of their first ids: strata need not be sortable
        total = max(1, round(fine_fraction * len(ids)))
        if total >= len(ids):
            raise ValueError(
                f"fine_fraction = {fine_fraction} of {len(ids)} images leaves nothing to forget; "
                "lower it, or add images"
            )
        generator = np.random.Generator(np.random.PCG64(seed))
        fine: list[str] = []
        for group, share in zip(groups, _largest_remainder(total, [len(g) for g in groups]), strict=True):
            fine += [group[i] for i in generator.permutation(len(group))[:share]]
        return cls(tuple(fine), tuple({*ids} - {*fine}), dict(coarsening), fine_fraction, seed)

    @classmethod
    def given(cls, fine: Sequence[str], coarse: Sequence[str], coarsening: Mapping[str, Any]) -> ForgetSplit:
        """The split of data in which only some images have fine masks; arguments as for the class."""
        return cls(tuple(fine), tuple(coarse), dict(coarsening))

    @property
    def forget_fraction(self) -> float:
        """Share |C| / (|F| + |C|) of the images whose foreground is forgotten."""
        return len(self.coarse) / (len(self.fine) + len(self.coarse))

    @property
    def digest(self) -> str:
        """SHA-256 of everything the split says."""
        return digest_of(self._content())

    def save(self, path: str | Path) -> Path:
        """Write the split as JSON, whole or not at all.

        Raises:
            FileExistsError: if another split stands there.
            ValueError: if something that is no split stands there.
        """
        path = Path(path)
        if path.exists():
            if ForgetSplit.load(path).digest == self.digest:
                return path
            raise FileExistsError(
                f"{path} holds another split, and models may have been trained on it; choose another path, "
                "or load that split instead of drawing one"
            )
        return write_json(path, {**self._content(), "digest": self.digest})

    @classmethod
    def load(cls, path: str | Path) -> ForgetSplit:
        """Read a split and check that nobody edited it.

        Raises:
            ValueError: if the file is no split of this schema, or differs from what was saved.
        """
        try:
            content = parse_json(Path(path).read_text(encoding="utf-8"))
            schema, digest = content.pop("schema"), content.pop("digest")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is no forget/retain split: {error!r}") from error
        if schema != SCHEMA:
            raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA}; draw the split again")
        if digest_of({"schema": schema, **content}) != digest:
            raise ValueError(
                f"{path} was edited after it was saved (its digest differs); restore it, or draw a new split"
            )
        return cls(**{**content, "fine": tuple(content["fine"]), "coarse": tuple(content["coarse"])})

    def _content(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "seed": self.seed,
            "fine_fraction": self.fine_fraction,
            "coarsening": dict(self.coarsening),
            "fine": list(self.fine),
            "coarse": list(self.coarse),
        }


def _largest_remainder(total: int, sizes: Sequence[int]) -> list[int]:
    """Share out ``total`` in proportion to ``sizes``: round down, then one more to the largest remainders.

    Example:
        >>> _largest_remainder(5, [10, 10, 5])
        [2, 2, 1]
    """
    quotas = [divmod(total * size, sum(sizes)) for size in sizes]
    shares = [whole for whole, _ in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -quotas[i][1])  # a stable sort: ties go to the first
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _check_unique(ids: Sequence[str]) -> None:
    if len({*ids}) < len(ids):
        twice = sorted(name for name, count in Counter(ids).items() if count > 1)
        raise ValueError(f"{len(twice)} ids occur more than once, e.g. '{twice[0]}'; ids must be unique")
