"""From pretrained weights to an anchor: all but the head, in a fresh network (theory §4, §6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files import write_json
from ..weights import read_state, save_weights, state_digest
from .ledger import FILE_NAME, Exposure, Ledger, ledger_of_file


def make_anchor(
    pretrained: Path,
    out: Path,
    model: Callable[[], nn.Module],
    head: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Make an anchor of pretrained weights: a fresh network that keeps all of them but the head.

    The network is built here, so its head never saw anything. Leaves in the folder of ``out``: the weights, their
    ``ledger.json`` (the body's exposure is that of the pretraining, or unknown if it left none) and ``anchor.json``,
    which names the fresh tensors.

    Args:
        pretrained: weights of a network of the same kind, e.g. of a RestorationModule.
        out: file to write, such as ``anchors/anchor.safetensors``; its folder must hold no ledger yet.
        model: makes the fresh module whose weights the anchor will be.
        head: shell patterns of the tensors that stay fresh; None = those of another shape, and those that the
            pretrained weights lack. For the default network of equally many channels and classes:
            ``network.model.2.*``.
        seed: of the fresh head.

    Returns:
        ``out``.

    Raises:
        ValueError: if nothing would stay fresh, nothing would be taken over, or a pattern fits nothing.
        FileExistsError: if the folder holds weights with a ledger already.

    Source: theory §4 (anchors), §6.
    """
    out = Path(out)
    if out.exists() or (out.parent / FILE_NAME).exists():
        raise FileExistsError(f"{out.parent} holds weights or a ledger already; give another folder")
    state, ledger = read_state(Path(pretrained)), ledger_of_file(pretrained)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = model()
    own = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    fresh = _fresh(own, state, head)
    taken = {name: state[name] for name in own if name not in fresh}
    module.load_state_dict({**own, **taken})
    save_weights(module, out)
    exposures = {name: Exposure() if name in fresh else ledger.exposures[name] for name in own}
    episodes = (*ledger.episodes, {"origin": "anchor", "fresh": sorted(fresh)})
    final = Ledger(state_digest({**own, **taken}), exposures, ledger.steps, episodes)
    final.save(out.parent / FILE_NAME)
    write_json(
        out.parent / "anchor.json",
        {
            "anchor_weights": final.weights,
            "pretrained_weights": state_digest(state),
            "history_known": not final.exposure.unknown,
            "fresh": sorted(fresh),
            "seed": seed,
        },
    )
    return out


def _fresh(own: Mapping[str, Tensor], state: Mapping[str, Tensor], head: Sequence[str] | None) -> set[str]:
    """Names of the tensors that stay as the fresh network drew them."""
    other = {name for name, tensor in own.items() if name not in state or state[name].shape != tensor.shape}
    unused = [pattern for pattern in head or () if not any(fnmatchcase(name, pattern) for name in own)]
    if unused:
        raise ValueError(f"head={unused} fit no tensor; names look like {list(own)[-3:]}")
    named = {name for name in own if any(fnmatchcase(name, pattern) for pattern in head or ())}
    if head is not None and not other <= named:
        missing = sorted(other - named)
        raise ValueError(f"{missing[0]} differs in shape or is missing in the pretrained weights; add it to head=")
    if not named | other:
        raise ValueError(
            f"every tensor fits, so nothing says which are the head; name them, e.g. head=['{list(own)[-1]}'], or all "
            "of the last layer by a pattern"
        )
    if len(named | other) == len(own):
        raise ValueError("the pretrained weights share no tensor with the model; use the same kind of network for both")
    return named | other
