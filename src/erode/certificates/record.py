"""The record of a run, which every operator writes: what it says of the weights beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import parse_json
from ..weights import read_state, state_digest
from .certificate import VerificationError
from .checks import require

RECORD = "unlearning.json"
"""What an operator writes beside the weights."""


def is_record(path: Path) -> bool:
    """Whether it is unlearning.json."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and "operator" in content and "schema" not in content


def check_record(record: Any, path: Path, weights: Path | None = None) -> Path:
    """Check that the record of a run belongs to the weights beside it, or to those given.

    Returns:
        The weights.

    Raises:
        VerificationError: if the run released nothing, or other weights.
    """
    require(record.get("completed") is True, "", f"the run of {path} was cut short: it released nothing")
    weights = path.with_name("weights.safetensors") if weights is None else Path(weights)
    require(weights.is_file(), "", f"there are no weights at {weights}")
    try:
        found = state_digest(read_state(weights))
    except ValueError as error:
        raise VerificationError("", str(error)) from error
    require("released_weights" in record, "", f"{path} does not say which weights were released")
    same = found == record["released_weights"]
    require(same, "", f"{weights} holds other weights ({found}) than {path} says were released")
    return weights
