"""What the certificate beside measured weights says of S_global of its reference, if it holds and is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..certificates import VerificationError, check_certificate
from ..files import parse_json
from ..metrics import SliceCounts, certified_interval


def claimed(weights: Path, digest: str) -> dict[str, Any] | None:
    """The claim of ``certificate.json`` beside the weights; None where there is no such file.

    Args:
        weights: a file in the folder of the certificate.
        digest: of the weights in it (:func:`~erode.weights.weights_digest`).

    Raises:
        VerificationError: for a certificate that was not issued, does not hold or is for other weights.
    """
    path = weights.parent / "certificate.json"
    if not path.exists():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VerificationError("", f"{path} is no readable certificate: {error}") from error
    check_certificate(content)
    if content["digests"]["released_weights"] != digest:
        raise VerificationError("digests.released_weights", f"{path} is for other weights than {weights}")
    return dict(content["claim"])


def reference_interval(claim: Mapping[str, Any], counts: SliceCounts) -> dict[str, float] | None:
    """Where S_global of the certificate's reference lies, in nats per image; None without artefact masks.

    Args:
        claim: ``epsilon`` and ``delta``.
        counts: of the certified model.
    """
    slices = counts.compute()
    if not int(slices["images"]):
        return None
    found = certified_interval(slices["counts"], int(slices["images"]), claim["epsilon"], claim["delta"])
    return {"epsilon": claim["epsilon"], "delta": claim["delta"], "low": found.low, "high": found.high}
