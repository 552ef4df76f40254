"""Whether a certificate holds: recomputed from its constants, trusting none of the numbers that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from ..files import digest_of, file_digest
from ..mechanisms import MOST_STEPS, Mechanism, mechanism
from ..weights import read_state, state_digest
from .certificate import ASSUMPTIONS, NOISE, SCHEMA, Target, VerificationError, claim_of, sentence

Content = Mapping[str, Any]

_FIELDS: dict[str, tuple[str, ...]] = {
    "": (
        "schema", "issued", "why_not", "reproducible", "guarantee", "mechanism", "target", "account", "claim",
        "exposed", "digests", "noise", "assumptions", "software", "digest",
    ),
    "target": ("epsilon", "delta"),
    "account": ("steps", "blocks", "initial_distance"),
    "claim": ("mu", "epsilon", "delta", "curve"),
    "exposed": ("d", "parameters"),
    "digests": ("released_file", "released_weights", "anchor_weights", "split", "settings"),
    "software": ("erode", "torch", "python"),
}  # fmt: skip
"""Fields of each section; "" is the certificate itself."""

_TRUTHS = ("issued", "reproducible")
"""Fields that say yes or no."""

_TOLERANCE = 1e-9
"""Relative difference that platforms may round apart."""


def check_certificate(content: Content) -> Mechanism:
    """Check everything that needs no other file.

    Args:
        content: a certificate as :func:`~erode.files.parse_json` gives it.

    Returns:
        The mechanism that it certifies.

    Raises:
        VerificationError: naming the first field that does not hold.
    """
    try:
        return _check(content)
    except VerificationError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise VerificationError("", f"holds values of another kind: {error!r}") from error


def _check(content: Content) -> Mechanism:
    require(content.get("schema") == SCHEMA, "schema", f"is {content.get('schema')!r}, this version reads {SCHEMA}")
    for section, names in _FIELDS.items():
        part = content[section] if section else content
        if section == "claim" and part is None:
            continue
        require(set(part) == set(names), section or "fields", f"has {sorted(part)}, expected {sorted(names)}")
    _require_no_truth_values(content)
    stated = {name: value for name, value in content.items() if name != "digest"}
    require(digest_of(stated) == content["digest"], "digest", "differs: the certificate was edited")
    require(content["reproducible"] is False, "reproducible", "the noise came from a known seed, for debugging")
    require(content["issued"] is True, "issued", f"nothing was certified: {content['why_not']}")
    require(content["why_not"] is None, "why_not", "gives a reason against a certificate that was issued")
    made = _checked_mechanism(content["mechanism"])
    _check_account(content["account"], made)
    _check_claim(content["claim"], Target(**content["target"]), made)
    require(content["guarantee"] == sentence(content["claim"], made), "guarantee", "says other than the claim")
    require(content["assumptions"] == list(ASSUMPTIONS), "assumptions", "differ from those of this schema")
    require(content["noise"] == NOISE, "noise", "differs from that of this schema")
    for name, shape in content["exposed"]["parameters"].items():
        whole = isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)
        require(whole, f"exposed.parameters.{name}", f"is no shape: {shape!r}")
    d = sum(prod(shape) for shape in content["exposed"]["parameters"].values())
    require(d > 0, "exposed.parameters", "hold no number, so nothing was unlearned")
    same = type(content["exposed"]["d"]) is int and content["exposed"]["d"] == d
    require(same, "exposed.d", f"is {content['exposed']['d']}, but the parameters have {d}")
    sizes = getattr(made, "sizes", None)  # of blocks
    require(sizes is None or sum(sizes) == d, "mechanism.sizes", f"have {sizes} parameters of {d}")
    for name, digest in content["digests"].items():
        # A loader of someone else's knows no split; a checkpoint's certificate is for no file of its own.
        absent = name in ("split", "released_file") and digest is None
        require(absent or _is_sha256(digest), f"digests.{name}", f"is no SHA-256: {digest!r}")
    for name, version in content["software"].items():
        require(isinstance(version, str), f"software.{name}", f"is no version: {version!r}")
    return made


def _checked_mechanism(constants: Content) -> Mechanism:
    try:
        return mechanism(dict(constants))
    except (ValueError, TypeError) as error:
        raise VerificationError("mechanism", str(error)) from error


def _check_account(account: Content, made: Mechanism) -> None:
    whole = type(account["steps"]) is int and account["steps"] == made.steps
    require(whole, "account.steps", f"is {account['steps']} of {made.steps} certified steps")
    many = f"are {made.steps:,}, but no run takes more than {MOST_STEPS:,}, whose account is recomputed step by step"
    require(made.steps <= MOST_STEPS, "mechanism.steps", many)
    _close(account["initial_distance"], made.initial_distance(), "account.initial_distance")
    expected = made.pieces()
    require(len(account["blocks"]) == len(expected), "account.blocks", "have another number of pieces")
    for found, piece in zip(account["blocks"], expected, strict=True):
        _close_all(found, piece, "account.blocks")


def _check_claim(claim: Content, target: Target, made: Mechanism) -> None:
    recomputed = claim_of(made, target)
    _close(claim["mu"], recomputed["mu"], "claim.mu")
    require(claim["delta"] == target.delta, "claim.delta", f"is {claim['delta']}, asked for was {target.delta}")
    _close(claim["epsilon"], recomputed["epsilon"], "claim.epsilon")
    if target.epsilon is not None:
        reached = made.epsilon(target.delta)
        enough = reached <= target.epsilon * (1 + _TOLERANCE)
        require(enough, "mechanism.sigma", f"gives epsilon = {reached}, not the {target.epsilon} asked for")
    require(len(claim["curve"]) == len(recomputed["curve"]), "claim.curve", "has another number of points")
    for point, expected in zip(claim["curve"], recomputed["curve"], strict=True):
        _close_all(point, expected, "claim.curve")


def check_weights(content: Content, path: Path) -> None:
    """Check that weights are those of a certificate.

    Raises:
        VerificationError: if they are others, or none that can be read.
    """
    digests = content["digests"]
    if not path.is_file():
        raise VerificationError("digests.released_weights", f"there are no weights at {path}")
    try:
        state = read_state(path)
    except ValueError as error:
        raise VerificationError("digests.released_weights", str(error)) from error
    found = state_digest(state)
    same = found == digests["released_weights"]
    require(same, "digests.released_weights", f"{path} has {found}: these are other weights")
    if path.suffix == ".safetensors" and digests["released_file"] is not None:
        found = file_digest(path)
        same = found == digests["released_file"]
        require(same, "digests.released_file", f"{path} has {found}: the same weights, in another file")
    for name, shape in content["exposed"]["parameters"].items():
        there = list(state[name].shape) if name in state else None
        require(there == shape, f"exposed.parameters.{name}", f"is {there} in {path}")


def require(holds: bool, field: str, why: str) -> None:
    """Raise VerificationError about a field unless something holds."""
    if not holds:
        raise VerificationError(field, why)


def _require_no_truth_values(part: Any, field: str = "") -> None:
    """Refuse true where a number belongs, as it would count as 1."""
    require(not isinstance(part, bool) or field in _TRUTHS, field, f"is {part}, which is no number and no text")
    entries = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, (list, tuple)) else ()
    for name, value in entries:
        _require_no_truth_values(value, f"{field}.{name}" if field else str(name))


def _close(found: float, expected: float, field: str) -> None:
    same = math.isclose(found, expected, rel_tol=_TOLERANCE)
    require(same, field, f"is {found!r}, but the constants give {expected!r}")


def _close_all(found: Sequence[float], expected: Sequence[float], field: str) -> None:
    require(len(found) == len(expected), field, f"holds {found}, expected {len(expected)} numbers")
    for one, other in zip(found, expected, strict=True):
        _close(one, other, field)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
