"""Ids that nothing knows: weights are unexposed to a misspelt name whatever they saw (theory §1)."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from ..files import parse_json
from .ledger import FILE_NAME, check_ids, read_ledger
from .request import ForgetRequest

Unrecorded = Collection[str] | Literal["all"]
"""Ids of a request that need not occur in any ledger, by the caller's word; ``all`` = every one."""


def check_spelling(
    request: ForgetRequest,
    recorded: AbstractSet[str],
    known: AbstractSet[str],
    unrecorded: Unrecorded,
    ledgers: str,
) -> None:
    """Refuse ids that nothing knows, with those that they may have been meant to be.

    A split, and the ids of the data at hand, may name images that were not served yet. But if no ledger names any of
    them, they may be of other data, or renamed.

    Args:
        request: what must not have been seen.
        recorded: ids that the ledgers name.
        known: ids that exist beside them: of the data at hand.
        unrecorded: ids of the request that need not occur, by someone's word.
        ledgers: which they are, for the message.

    Raises:
        ValueError: naming the first.

    Example:
        >>> check_spelling(ForgetRequest.of(["scan3"]), {"scan 3"}, set(), (), "beside the weights")
        Traceback (most recent call last):
        ...
        ValueError: the request names 'scan3' (like 'scan 3'), which no ledger beside the weights knows: ...
    """
    if unrecorded == "all":
        return
    check_ids(unrecorded, "unrecorded")
    new = request.limits.keys() - recorded - {*unrecorded}
    if strange := sorted(new - known - request.listed):
        shown = "; ".join(f"'{name}'{_look_alikes(name, recorded | known)}" for name in strange[:3])
        more = f" and {len(strange) - 3} others" if len(strange) > 3 else ""
        raise ValueError(
            f"the request names {shown}{more}, which no ledger {ledgers} knows: weights are unexposed to such a name "
            "whatever they saw, so that would prove nothing. Correct it; or, if it was never trained on or its "
            f"checkpoints are gone, say so: unrecorded={strange[:3]}"
        )
    vouching = ((request.listed, request.listed, "split"), (known, known | request.limits.keys(), "data at hand"))
    for names, shared, what in vouching:
        if recorded and not new.isdisjoint(names) and recorded.isdisjoint(shared):
            raise ValueError(
                f"no ledger {ledgers} knows any of the {len(names)} images of the {what}, so it may be that of other "
                f"data, and would prove nothing: it names '{min(names)}', the ledgers '{min(recorded)}'. Give the "
                "split, or the ids, of the data that these weights were trained on; or say that it is meant: "
                "unrecorded='all'"
            )


def recorded_in(folder: str | Path) -> set[str]:
    """Ids that any ledger in a folder names, its sub-folders included; files without one are passed over.

    Raises:
        ValueError: if it holds no ledger.
    """
    ledgers = []
    for path in [*Path(folder).rglob("*.ckpt"), *Path(folder).rglob(FILE_NAME)]:
        try:
            ledgers.append(read_ledger(path))
        except (ValueError, OSError):
            continue
    if not ledgers:
        raise ValueError(f"{folder} holds no ledger that can be read; give the folder that training wrote to, or ids")
    return {name for ledger in ledgers for name in ledger.images}


def checked_by_rewind(weights: Path, digest: str, *requests: ForgetRequest) -> set[str] | None:
    """Ids that no ledger named when Rewind restored some weights for one of some requests; None = it did not.

    It checked the spelling then, among ledgers that may know more than that of the weights.

    Args:
        weights: the file that it released, with its record beside.
        digest: that of the weights.
        requests: for any of which it may have been.
    """
    asked = {request.digest for request in requests}
    for name, released in (("rewind.json", "checkpoint_weights"), ("unlearning.json", "released_weights")):
        if not (path := weights.parent / name).is_file():
            continue
        record = parse_json(path.read_text(encoding="utf-8"))
        if record.get(released) == digest and record.get("request_digest") in asked and "unrecorded" in record:
            return {*record["unrecorded"]}
    return None


def _look_alikes(name: str, known: Collection[str]) -> str:
    folded = {other.casefold(): other for other in sorted(known, reverse=True)}
    near = [f"'{folded[other]}'" for other in get_close_matches(name.casefold(), folded, n=3)]
    return f" (like {', '.join(near)})" if near else ""
