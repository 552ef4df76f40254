"""The file of a stream: answers, each bound to the one before, and what their releases give away together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..accounting import gdp_epsilon
from ..files import digest_of, parse_json, write_json

SCHEMA = "erode-requests/1"
"""Raise the number when the meaning of a field changes."""

Answer = dict[str, Any]
"""Plain data: number, request, kind of answer, mu, digest of the weights, evidence, guarantee, digest of the answer
before, and its own."""

_CHAIN = ("number", "previous", "digest")


def composed(answers: Sequence[Mapping[str, Any]], delta: float) -> dict[str, float]:
    """What some releases give away together: ``sqrt(Σ μ_j²)``, and ε at δ.

    Example:
        >>> round(composed([{"mu": 0.3}, {"mu": 0.4}], 1e-7)["mu"], 6)
        0.5
    """
    mu = math.hypot(*(answer["mu"] for answer in answers), 0.0)
    return {"mu": mu, "epsilon": gdp_epsilon(mu, delta) if mu else 0.0, "delta": delta}


def chained(answer: Answer, previous: Answer | None) -> Answer:
    """An answer with its number, bound to the one before by its digest."""
    number, before = (0, None) if previous is None else (previous["number"] + 1, previous["digest"])
    entry = {"number": number, **answer, "previous": before}
    return {**entry, "digest": digest_of(entry)}


def write_answers(path: Path, answers: Sequence[Answer], delta: float) -> None:
    """Write all of them, whole or not at all."""
    write_json(path, {"schema": SCHEMA, "entries": list(answers), "composed": composed(answers, delta)})


def read_answers(path: Path, delta: float) -> list[Answer]:
    """Read them, and check that each is as it was written, and that none between them is missing.

    The file is not signed. Who cuts off its last answers and adds the rest up anew leaves one that nobody can tell from
    an earlier state of it.

    Returns:
        Them in order; none where there is no file.

    Raises:
        ValueError: if it is no such file, tells ε at another δ, or was edited.
    """
    if not path.exists():
        return []
    content = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no stream of requests of schema {SCHEMA}; give another path")
    try:
        if content["composed"]["delta"] != delta:
            raise ValueError(f"{path} tells epsilon at delta = {content['composed']['delta']}; open it with that delta")
        _check(path, content["entries"], content["composed"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} lacks {error}, so it was edited; restore the file") from error
    return list(content["entries"])


def _check(path: Path, answers: Sequence[Answer], total: Mapping[str, float]) -> None:
    previous: Answer | None = None
    for number, answer in enumerate(answers):
        if chained({k: v for k, v in answer.items() if k not in _CHAIN}, previous) != answer:
            raise ValueError(f"{path}: entry {number} was edited, or entries before it were removed; restore the file")
        previous = answer
    for name, value in composed(answers, total["delta"]).items():
        if not math.isclose(total[name], value, rel_tol=1e-6):
            raise ValueError(
                f"{path}: composed says {name} = {total[name]}, its entries add up to {value}: it was edited, or "
                "entries were removed; restore the file"
            )
