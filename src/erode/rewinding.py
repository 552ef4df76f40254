"""Rewinding: find the last weights that a forget request does not touch, prove it, restore them (theory §6)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import save_file
from torch import Tensor

from .files import write_atomically, write_json
from .ledger import FILE_NAME, Ledger, read_ledger
from .masks import ForgetSplit
from .requests import Atoms, ForgetRequest
from .weights import read_content, state_in

_OTHER = "it holds weights of another architecture than the module"


@dataclass(frozen=True)
class Found:
    """The checkpoint that a request is answered with, and the proof."""

    path: Path
    ledger: Ledger
    state: dict[str, Tensor]
    """Its weights, checked against the ledger."""
    proof: dict[str, Any]
    """Plain data: the file, its digests, why it is unexposed, and which later ones are not."""


def find_unexposed(folder: str | Path, request: ForgetRequest, like: Mapping[str, Tensor] | None = None) -> Found:
    """Load the last weights in a folder that were never exposed to a request.

    Ledgers are read first, without their weights; only the chosen file is read whole, so this takes as long as loading
    one file. *Last* is by the number of training batches since initialisation, then by path.

    Args:
        folder: is searched with its sub-folders: ``*.ckpt`` that carry a ledger, ``*.safetensors`` with
            ``ledger.json`` beside them.
        request: what must not have been seen.
        like: tensors of a module whose names and shapes the weights must have; None = any.

    Raises:
        ValueError: if no file is eligible, with the reason for each; remedy: Retrain.

    Source:
        exact by construction: no forget atom took part (theory §2, §6).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder of checkpoints at {folder}; give the one that training wrote to")
    refused: list[dict[str, str]] = []
    eligible: list[tuple[int, str]] = []
    for path, ledger in _candidates(folder):
        why = ledger if isinstance(ledger, str) else _why_not(ledger, request, like)
        if why is not None or isinstance(ledger, str):
            refused.append({"file": str(path), "why": str(why)})
        else:
            eligible.append((ledger.steps, str(path)))
    for _, name in sorted(eligible, reverse=True):
        try:
            return _load(Path(name), request, like, refused)
        except (ValueError, OSError) as error:
            refused.append({"file": name, "why": str(error)})
    reasons = "; ".join(f"{Path(r['file']).relative_to(folder)}: {r['why']}" for r in refused[:5])
    raise ValueError(
        f"no checkpoint in {folder} is unexposed to the request ({reasons or 'it holds none'}); "
        "unlearn with Retrain, and train with ExposureLedger on retained data first the next time"
    )


def rewind(
    checkpoints: Path,
    request: Path | list[str],
    out: Path,
    atoms: Atoms = "image",
) -> Path:
    """Restore the last weights that a forget request does not touch, without any training.

    Leaves in ``out``: ``weights.safetensors``, bit for bit those of the checkpoint, ``ledger.json`` and the proof,
    ``rewind.json``.

    Args:
        checkpoints: folder that is searched, with its sub-folders.
        request: a split.json, or image ids.
        out: a folder that holds no weights yet.
        atoms: for ids: what to take back of each image (image = everything).

    Returns:
        Path of the weights.

    Raises:
        ValueError: if no checkpoint is eligible.
        FileExistsError: if ``out`` holds weights already.
    """
    return restore_to(checkpoints, ForgetRequest.of(request, atoms), out)


def restore_to(checkpoints: str | Path, request: ForgetRequest | ForgetSplit | Sequence[str], out: str | Path) -> Path:
    """:func:`rewind` for a request that is an object already."""
    out = Path(out)
    if (out / "weights.safetensors").exists():
        raise FileExistsError(f"{out} holds weights already, and nothing is overwritten; give another folder")
    found = find_unexposed(checkpoints, ForgetRequest.of(request))
    path = write_atomically(out / "weights.safetensors", lambda target: save_file(_separate(found.state), target))
    found.ledger.save(out / FILE_NAME)
    write_json(out / "rewind.json", {"guarantee": "exact", "epsilon": 0.0, "delta": 0.0, **found.proof})
    return path


def _candidates(folder: Path) -> Iterator[tuple[Path, Ledger | str]]:
    """Files of weights with their ledgers, or with the reason why there is none that holds."""
    for path in sorted([*folder.rglob("*.ckpt"), *folder.rglob("*.safetensors")]):
        try:
            yield path, read_ledger(path)
        except (ValueError, OSError) as error:
            yield path, str(error)


def _why_not(ledger: Ledger, request: ForgetRequest, like: Mapping[str, Tensor] | None) -> str | None:
    if like is not None and like.keys() != ledger.exposures.keys():
        return _OTHER
    return ledger.why_exposed(request.limits)


def _load(
    path: Path, request: ForgetRequest, like: Mapping[str, Tensor] | None, refused: list[dict[str, str]]
) -> Found:
    """Read the chosen file and name it by its digest at the same time, and look at its ledger once more.

    What is proved and what is restored come from one read; of two open files, the marks show that they are one, and
    that nobody wrote to it.
    """
    with path.open("rb") as file, path.open("rb") as same, ThreadPoolExecutor(1) as beside:
        marks = {_mark(file), _mark(same)}
        named = beside.submit(hashlib.file_digest, same, "sha256")
        content = read_content(path, file)
        state, ledger = state_in(content, path), read_ledger(path, content)
        ledger.check_weights(state, path)
        digest = named.result().hexdigest()
        marks.add(_mark(file))
    if len(marks) > 1:
        raise ValueError("changed while it was read")
    if like is not None and any(state[name].shape != tensor.shape for name, tensor in like.items()):
        raise ValueError(_OTHER)
    if (why := ledger.why_exposed(request.limits)) is not None:
        raise ValueError(f"changed while it was read ({why})")
    proof = {
        "checkpoint": str(path),
        "checkpoint_digest": digest,
        "checkpoint_weights": ledger.weights,
        "ledger_digest": ledger.digest,
        "batches_since_initialisation": ledger.steps,
        "request": request.describe(),
        "request_digest": request.digest,
        "why_unexposed": _reason(ledger, request),
        "passed_over": refused,
        "optimizer_state": "not restored",
    }
    return Found(path, ledger, state, proof)


def _mark(file: BinaryIO) -> tuple[int, int, int, int]:
    """Differs between files, and before and after a write."""
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _reason(ledger: Ledger, request: ForgetRequest) -> str:
    levels = ledger.exposure.levels
    seen = [name for name in request.limits if name in levels]
    if not seen:
        return f"none of the {len(request.limits)} images was ever seen by any tensor of these weights"
    most = max(seen, key=lambda name: levels[name])
    return (
        f"of the {len(request.limits)} images, {len(seen)} were seen, each below the level that has to be forgotten; "
        f"the most is {levels[most].name} of '{most}', whose limit is {request.limits[most].name}"
    )


def _separate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as safetensors wants them."""
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}
