"""``erode verify``: whether a certificate, or the record of a run, holds for the weights beside it."""

from __future__ import annotations

from pathlib import Path

import torch

from ..accounting import rounded_down, rounded_up
from ..files import parse_json
from ..mechanisms import Mechanism
from .certificate import CHECKPOINT_KEY, VerificationError
from .checks import Content, check_certificate, check_weights, require
from .record import RECORD, check_record, is_record

CERTIFICATE = "certificate.json"
"""What a certified operator writes beside the weights."""


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
    if is_record(certificate):
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
        check_weights(content, Path(weights))
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


def _verify_record(path: Path, weights: Path | None) -> None:
    record = parse_json(path.read_text(encoding="utf-8"))
    released = check_record(record, path, weights)
    promise = {
        "exact": "Exact is what the procedure is, if it took place as recorded; no file proves that.",
        "certified": "The certificate is another file: erode verify certificate.json.",
    }.get(record.get("guarantee"), "It promises nothing.")
    print(f"the weights of {released} are those that {record['operator']} released by the record of {path}. {promise}")


def _own_weights(certificate: Path) -> Path | None:
    """Those in the checkpoint, or beside the certificate."""
    weights = certificate if certificate.suffix == ".ckpt" else certificate.with_name("weights.safetensors")
    return weights if weights.is_file() else None


def _read(path: Path) -> Content:
    try:
        if path.suffix == ".ckpt":
            content = torch.load(path, map_location="cpu", weights_only=True).get(CHECKPOINT_KEY)
        else:
            content = parse_json(path.read_text(encoding="utf-8"))
    except Exception as error:
        which = "give certificate.json, unlearning.json, or the folder of the run"
        raise VerificationError("", f"{path} is no readable certificate ({error}); {which}") from error
    require(isinstance(content, dict), "", f"{path} is no certificate")
    return dict(content)
