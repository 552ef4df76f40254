"""``erode verify``: recompute a certificate from its constants, trusting none of the numbers that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch

from .accounting import rounded_down, rounded_up
from .certificate import (
    ASSUMPTIONS,
    CHECKPOINT_KEY,
    NOISE,
    SCHEMA,
    Target,
    VerificationError,
    claim_of,
    file_digest,
    sentence,
)
from .files import digest_of, parse_json
from .mechanisms import MOST_STEPS, Mechanism, mechanism
from .weights import read_state, state_digest

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

CERTIFICATE, RECORD = "certificate.json", "unlearning.json"
"""What an operator writes beside the weights."""

_TOLERANCE = 1e-9
"""Relative difference that platforms may round apart."""


def verify(certificate: Path, weights: Path | None = None) -> None:
    """Check a certificate: its arithmetic, and that it belongs to the weights.

    It shows that the guarantee follows from the constants and the recorded steps, and that the file is as it
    was written. It cannot show that the run took place as recorded: whoever makes up a consistent certificate
    passes, so get it from whom you trust.

    Args:
        certificate: certificate.json, or a checkpoint of a certified run, which carries one for its own weights. Or
            unlearning.json, the record of any run: then only that it belongs to the weights is checked, for what exact
            operators promise is what they do, and no file proves that it was done. Or the folder with either.
        weights: weights.safetensors that were released with it, or any other file of the same weights; None = those
            beside the certificate, if there are any.

    Raises:
        VerificationError: naming the field that does not hold.
    """
    certificate = Path(certificate)
    if certificate.is_dir():
        certificate = _within(certificate)
    if _is_record(certificate):
        _verify_record(certificate, weights)
        return
    content, checked, weights = check(certificate, weights)
    print(
        f"{content['guarantee']}\n"
        f"verified: {checked.name}, {checked.steps} draws of noise with sigma = {rounded_down(checked.sigma)} on "
        f"{content['exposed']['d']} parameters, mu = {rounded_up(content['claim']['mu'])}; "
        + (
            f"the weights of {weights} belong to it"
            if weights is not None
            else "no weights given or beside it to check"
        )
    )
    print(_left_to_the_owner(content))
    if any(path is not None and Path(path).suffix == ".ckpt" for path in (certificate, weights)):
        print(
            "this speaks of the weights in the checkpoint only, not of what optimiser, callbacks and loops left in it; "
            "release weights.safetensors"
        )


def check(certificate: Path, weights: Path | None = None) -> tuple[Content, Mechanism, Path | None]:
    """Check as :func:`verify` does, in silence.

    Returns:
        The certificate, the mechanism that it certifies, and the weights that belong to it, if there are any.

    Raises:
        VerificationError: naming the field that does not hold.
    """
    content = _read(certificate)
    checked = check_certificate(content)
    weights = _own_weights(certificate) if weights is None else weights
    if weights is not None:
        _check_weights(content, Path(weights))
    return content, checked, weights


def _within(folder: Path) -> Path:
    """The certificate, or else the record, of what a run released."""
    places = [folder / inner / name for name in (CERTIFICATE, RECORD) for inner in ("", "unlearned")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise VerificationError("", f"{folder} holds no {CERTIFICATE} and no {RECORD}, nor does unlearned in it")
    return found


def _left_to_the_owner(content: Content) -> str:
    """What no check can show."""
    split = content["digests"]["split"]
    data = (
        "no split was recorded, so that every batch held retained data only is the word of whoever owns the loader"
        if split is None
        else f"the split has the digest {split}"
    )
    return f"it rests on {len(content['assumptions'])} assumptions that no file can prove (they stand in it); {data}"


def _is_record(path: Path) -> bool:
    """Whether it is unlearning.json."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and "operator" in content and "schema" not in content


def _verify_record(path: Path, weights: Path | None) -> None:
    record = parse_json(path.read_text(encoding="utf-8"))
    released = check_record(record, path, weights)
    promise = {
        "exact": "Exact is what the procedure is, if it took place as recorded; no file proves that.",
        "certified": "The certificate is another file: erode verify certificate.json.",
    }.get(record.get("guarantee"), "It promises nothing.")
    print(f"the weights of {released} are those that {record['operator']} released by the record of {path}. {promise}")


def check_record(record: Any, path: Path, weights: Path | None = None) -> Path:
    """Check that the record of a run belongs to the weights beside it, or to those given.

    Returns:
        The weights.

    Raises:
        VerificationError: if the run released nothing, or other weights.
    """
    _require(record.get("completed") is True, "", f"the run of {path} was cut short: it released nothing")
    weights = path.with_name("weights.safetensors") if weights is None else Path(weights)
    _require(weights.is_file(), "", f"there are no weights at {weights}")
    try:
        found = state_digest(read_state(weights))
    except ValueError as error:
        raise VerificationError("", str(error)) from error
    _require("released_weights" in record, "", f"{path} does not say which weights were released")
    same = found == record["released_weights"]
    _require(same, "", f"{weights} holds other weights ({found}) than {path} says were released")
    return weights


def _own_weights(certificate: Path) -> Path | None:
    """Those in the checkpoint, or beside the certificate."""
    weights = certificate if certificate.suffix == ".ckpt" else certificate.with_name("weights.safetensors")
    return weights if weights.is_file() else None


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
    _require(content.get("schema") == SCHEMA, "schema", f"is {content.get('schema')!r}, this version reads {SCHEMA}")
    for section, names in _FIELDS.items():
        part = content[section] if section else content
        if section == "claim" and part is None:
            continue
        _require(set(part) == set(names), section or "fields", f"has {sorted(part)}, expected {sorted(names)}")
    _require_no_truth_values(content)
    stated = {name: value for name, value in content.items() if name != "digest"}
    _require(digest_of(stated) == content["digest"], "digest", "differs: the certificate was edited")
    _require(content["reproducible"] is False, "reproducible", "the noise came from a known seed, for debugging")
    _require(content["issued"] is True, "issued", f"nothing was certified: {content['why_not']}")
    _require(content["why_not"] is None, "why_not", "gives a reason against a certificate that was issued")
    made = _checked_mechanism(content["mechanism"])
    _check_account(content["account"], made)
    _check_claim(content["claim"], Target(**content["target"]), made)
    _require(content["guarantee"] == sentence(content["claim"], made), "guarantee", "says other than the claim")
    _require(content["assumptions"] == list(ASSUMPTIONS), "assumptions", "differ from those of this schema")
    _require(content["noise"] == NOISE, "noise", "differs from that of this schema")
    for name, shape in content["exposed"]["parameters"].items():
        whole = isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)
        _require(whole, f"exposed.parameters.{name}", f"is no shape: {shape!r}")
    d = sum(prod(shape) for shape in content["exposed"]["parameters"].values())
    _require(d > 0, "exposed.parameters", "hold no number, so nothing was unlearned")
    same = type(content["exposed"]["d"]) is int and content["exposed"]["d"] == d
    _require(same, "exposed.d", f"is {content['exposed']['d']}, but the parameters have {d}")
    sizes = getattr(made, "sizes", None)  # of blocks
    _require(sizes is None or sum(sizes) == d, "mechanism.sizes", f"have {sizes} parameters of {d}")
    for name, digest in content["digests"].items():
        # A loader of someone else's knows no split; a checkpoint's certificate is for no file of its own.
        absent = name in ("split", "released_file") and digest is None
        _require(absent or _is_sha256(digest), f"digests.{name}", f"is no SHA-256: {digest!r}")
    for name, version in content["software"].items():
        _require(isinstance(version, str), f"software.{name}", f"is no version: {version!r}")
    return made


def _checked_mechanism(constants: Content) -> Mechanism:
    try:
        return mechanism(dict(constants))
    except (ValueError, TypeError) as error:
        raise VerificationError("mechanism", str(error)) from error


def _check_account(account: Content, made: Mechanism) -> None:
    whole = type(account["steps"]) is int and account["steps"] == made.steps
    _require(whole, "account.steps", f"is {account['steps']} of {made.steps} certified steps")
    many = f"are {made.steps:,}, but no run takes more than {MOST_STEPS:,}, whose account is recomputed step by step"
    _require(made.steps <= MOST_STEPS, "mechanism.steps", many)
    _close(account["initial_distance"], made.initial_distance(), "account.initial_distance")
    expected = made.pieces()
    _require(len(account["blocks"]) == len(expected), "account.blocks", "have another number of pieces")
    for found, piece in zip(account["blocks"], expected, strict=True):
        _close_all(found, piece, "account.blocks")


def _check_claim(claim: Content, target: Target, made: Mechanism) -> None:
    recomputed = claim_of(made, target)
    _close(claim["mu"], recomputed["mu"], "claim.mu")
    _require(claim["delta"] == target.delta, "claim.delta", f"is {claim['delta']}, asked for was {target.delta}")
    _close(claim["epsilon"], recomputed["epsilon"], "claim.epsilon")
    if target.epsilon is not None:
        reached = made.epsilon(target.delta)
        enough = reached <= target.epsilon * (1 + _TOLERANCE)
        _require(enough, "mechanism.sigma", f"gives epsilon = {reached}, not the {target.epsilon} asked for")
    _require(len(claim["curve"]) == len(recomputed["curve"]), "claim.curve", "has another number of points")
    for point, expected in zip(claim["curve"], recomputed["curve"], strict=True):
        _close_all(point, expected, "claim.curve")


def _check_weights(content: Content, path: Path) -> None:
    digests = content["digests"]
    if not path.is_file():
        raise VerificationError("digests.released_weights", f"there are no weights at {path}")
    try:
        state = read_state(path)
    except ValueError as error:
        raise VerificationError("digests.released_weights", str(error)) from error
    found = state_digest(state)
    same = found == digests["released_weights"]
    _require(same, "digests.released_weights", f"{path} has {found}: these are other weights")
    if path.suffix == ".safetensors" and digests["released_file"] is not None:
        found = file_digest(path)
        same = found == digests["released_file"]
        _require(same, "digests.released_file", f"{path} has {found}: the same weights, in another file")
    for name, shape in content["exposed"]["parameters"].items():
        there = list(state[name].shape) if name in state else None
        _require(there == shape, f"exposed.parameters.{name}", f"is {there} in {path}")


def _read(path: Path) -> Content:
    try:
        if path.suffix == ".ckpt":
            content = torch.load(path, map_location="cpu", weights_only=True).get(CHECKPOINT_KEY)
        else:
            content = parse_json(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise VerificationError("", f"{path} is no readable certificate: {error}") from error
    _require(isinstance(content, dict), "", f"{path} is no certificate")
    return dict(content)


def _require(holds: bool, field: str, why: str) -> None:
    if not holds:
        raise VerificationError(field, why)


def _require_no_truth_values(part: Any, field: str = "") -> None:
    """Refuse true where a number belongs, as it would count as 1."""
    _require(not isinstance(part, bool) or field in _TRUTHS, field, f"is {part}, which is no number and no text")
    entries = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, (list, tuple)) else ()
    for name, value in entries:
        _require_no_truth_values(value, f"{field}.{name}" if field else str(name))


def _close(found: float, expected: float, field: str) -> None:
    same = math.isclose(found, expected, rel_tol=_TOLERANCE)
    _require(same, field, f"is {found!r}, but the constants give {expected!r}")


def _close_all(found: Sequence[float], expected: Sequence[float], field: str) -> None:
    _require(len(found) == len(expected), field, f"holds {found}, expected {len(expected)} numbers")
    for one, other in zip(found, expected, strict=True):
        _close(one, other, field)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
