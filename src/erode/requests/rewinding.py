"""Rewinding: find the last weights that a forget request does not touch, prove it, restore them (theory §6)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from ..files import write_atomically, write_json
from ..masks import ForgetSplit
from ..weights import read_content, state_in
from .ledger import FILE_NAME, Ledger, read_ledger
from .request import ForgetRequest, RequestedAtoms
from .spelling import Unrecorded, check_spelling

_OTHER = "it holds weights of another architecture than the module"


@dataclass(frozen=True)
class Found:
    """The checkpoint that a request is answered with, and the proof."""

    path: Path
    ledger: Ledger
    state: dict[str, Tensor]
    """Its weights, checked against the ledger; those of a checkpoint are still in the file: copy, then check again."""
    proof: dict[str, Any]
    """Plain data: the file, digests of its weights and ledger, why it is unexposed, which later ones are not, and which
    images of the request no ledger names."""


def find_unexposed(
    folder: str | Path,
    request: ForgetRequest,
    like: Mapping[str, Tensor] | None = None,
    *,
    known: Collection[str] = (),
    unrecorded: Unrecorded = (),
) -> Found:
    """Load the last weights in a folder that were never exposed to a request.

    Files are looked at without reading weights; only those of the chosen one are read, once, so this takes as long as
    loading one file. *Last* is by the number of training batches since initialisation, then by path.

    To an id that no ledger names all weights are unexposed, whatever they saw: it may be misspelt, and the answer exact
    and vacuous. So it is refused, unless the weights saw no image at all. A split, and the data at hand, may name
    images that were not served yet, but not only such: they may be of other data, or renamed.

    Args:
        folder: is searched with its sub-folders: ``*.ckpt`` that carry a ledger, ``*.safetensors`` with
            ``ledger.json`` beside them.
        request: what must not have been seen.
        like: tensors of a module whose names and shapes the weights must have; None = any.
        known: ids that exist, beside those in the ledgers: of the data at hand.
        unrecorded: ids of the request that occur in no ledger, by your word as they should: of images that were never
            trained on, or that were forgotten and whose checkpoints are gone. ``all`` = any may.

    Raises:
        ValueError: if no file is eligible, with the reason for each; remedy: Retrain. For ids that nothing knows, with
            those that look like them.

    Source:
        exact by construction: no forget atom took part (theory §2, §6).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder of checkpoints at {folder}; give the one that training wrote to")
    refused: list[dict[str, str]] = []
    eligible: list[tuple[int, str]] = []
    last: _Look | None = None
    recorded: set[str] = set()
    saw_something = False
    for path in sorted([*folder.rglob("*.ckpt"), *folder.rglob("*.safetensors")]):
        try:
            look = _Look.at(path)
            seen = look.ledger.images
            recorded |= seen
            look.check(request, like)
        except (ValueError, OSError) as error:
            refused.append({"file": str(path), "why": str(error)})
            continue
        saw_something |= bool(seen)
        eligible.append((look.ledger.steps, str(path)))
        if eligible[-1] == max(eligible):
            last = look
    if saw_something:
        check_spelling(request, recorded, {*known}, unrecorded, f"in {folder}")
    for _, name in sorted(eligible, reverse=True):
        try:
            look, last = last or _Look.at(Path(name)), None
            found = _restore(look, request, like, refused)
            found.proof["unrecorded"] = sorted(request.limits.keys() - recorded)
            return found
        except (ValueError, OSError) as error:
            refused.append({"file": name, "why": str(error)})
    reasons = "; ".join(f"{Path(r['file']).relative_to(folder)}: {r['why']}" for r in refused[:3])
    more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
    raise ValueError(
        f"no checkpoint in {folder} is unexposed to the request: unlearn with Retrain, and train with ExposureLedger "
        f"on retained data first the next time ({reasons or 'it holds none'}{more})"
    )


def rewind(
    checkpoints: Path,
    request: Path | list[str],
    out: Path,
    atoms: RequestedAtoms = "image",
    unrecorded: list[str] | Literal["all"] | None = None,
) -> Path:
    """Restore the last weights that a forget request does not touch, without any training.

    Leaves in ``out``: ``weights.safetensors``, bit for bit those of the checkpoint, ``ledger.json`` and the proof,
    ``rewind.json``.

    Args:
        checkpoints: folder that is searched, with its sub-folders.
        request: a split.json, or image ids.
        out: a folder that holds no weights yet.
        atoms: for ids: what to take back of each image (image = everything).
        unrecorded: ids that are meant although no ledger in the folder names them; all = any may be.

    Returns:
        Path of the weights.

    Raises:
        ValueError: if no checkpoint is eligible, or no ledger names an image of the request.
        FileExistsError: if ``out`` holds weights already.
    """
    return restore_to(checkpoints, ForgetRequest.of(request, atoms), out, unrecorded or ())


def restore_to(
    checkpoints: str | Path,
    request: ForgetRequest | ForgetSplit | Sequence[str],
    out: str | Path,
    unrecorded: Unrecorded = (),
) -> Path:
    """:func:`rewind` for a request that is an object already."""
    out = Path(out)
    if (out / "weights.safetensors").exists():
        raise FileExistsError(f"{out} holds weights already, and nothing is overwritten; give another folder")
    found = find_unexposed(checkpoints, ForgetRequest.of(request), unrecorded=unrecorded)
    state = _separate(found.state)
    found.ledger.check_weights(state, found.path)
    path = write_atomically(out / "weights.safetensors", lambda target: save_file(state, target))
    found.ledger.save(out / FILE_NAME)
    write_json(out / "rewind.json", {"guarantee": "exact", "epsilon": 0.0, "delta": 0.0, **found.proof})
    return path


class _Look(NamedTuple):
    """What a file says before its weights are read."""

    path: Path
    ledger: Ledger
    content: Any
    """Of a checkpoint, its tensors still in the file; None = the ledger stands beside the weights."""

    @classmethod
    def at(cls, path: Path) -> _Look:
        """Read no weights."""
        content = read_content(path, mapped=True) if path.suffix == ".ckpt" else None
        return cls(path, read_ledger(path, content), content)

    def check(self, request: ForgetRequest, like: Mapping[str, Tensor] | None) -> None:
        """Refuse weights that were exposed to the request, or are not those of the module."""
        if like is not None and like.keys() != self.ledger.exposures.keys():
            raise ValueError(_OTHER)
        if (why := self.ledger.why_exposed(request.limits)) is not None:
            raise ValueError(why)


def _restore(
    look: _Look, request: ForgetRequest, like: Mapping[str, Tensor] | None, refused: list[dict[str, str]]
) -> Found:
    """Compare the weights with the ledger, which names them by their digest."""
    path, ledger = look.path, look.ledger
    look.check(request, like)
    state = state_in(read_content(path) if look.content is None else look.content, path)
    ledger.check_weights(state, path)
    if like is not None and any(state[name].shape != tensor.shape for name, tensor in like.items()):
        raise ValueError(_OTHER)
    proof = {
        "checkpoint": str(path),
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
