"""Which parameters the forget set may have changed, and the proof that it changed nothing else (theory §3, §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from ...weights import load_weights, weights_digest
from .reset import reset_parameters, stuck
from .shared_memory import check_loads, overlapping, overwrite

INITIALISATION, ZEROS = "initialisation", "zeros"
"""Anchors that need no file."""


def exposed_parameters(module: nn.Module, patterns: Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Exposed parameters by their first name; shared ones once.

    Args:
        module: the network.
        patterns: shell patterns of names, of a shared one any of its names; None = all that require a gradient.

    Raises:
        MisconfigurationException: if a pattern fits no parameter, nothing is exposed, one is complex or of low
            precision, or two stand in the same memory.

    Example:
        >>> list(exposed_parameters(nn.Linear(2, 1), ["w*"]))
        ['weight']
    """
    named = dict(module.named_parameters())
    every_name = dict(module.named_parameters(remove_duplicate=False))
    fitting = {pattern: [name for name in every_name if fnmatchcase(name, pattern)] for pattern in patterns or ()}
    unused = [pattern for pattern, names in fitting.items() if not names]
    if unused:
        raise MisconfigurationException(f"exposed={unused} fit no parameter; names look like {list(named)[:3]}")
    chosen = {id(every_name[name]) for names in fitting.values() for name in names}
    exposed = {
        name: parameter
        for name, parameter in named.items()
        if (parameter.requires_grad if patterns is None else id(parameter) in chosen)
    }
    if not exposed:
        raise MisconfigurationException("no parameter requires a gradient, so there is nothing to unlearn")
    if numbers := [name for name, parameter in exposed.items() if parameter.is_complex()]:
        raise MisconfigurationException(
            f"{numbers[0]} is complex, and the noise is drawn for real numbers; let the layer hold real and imaginary "
            "parts as one real parameter (torch.view_as_complex(weight) in forward, torch.view_as_real(weight) to "
            "convert trained ones), or retrain with Retrain"
        )
    if twice := overlapping(exposed):
        raise MisconfigurationException(
            f"{twice[0]} and {twice[1]} are two parameters in the same memory, which would get two noises or one; "
            "share the parameter itself (decoder.weight = encoder.weight)"
        )
    low = [name for name, parameter in exposed.items() if parameter.dtype not in (torch.float32, torch.float64)]
    if low:
        raise MisconfigurationException(
            f"{low[0]} is stored as {exposed[low[0]].dtype}, which rounds the noise away; keep weights in float32 "
            "(bf16-mixed precision still computes in bfloat16)"
        )
    return exposed


class Anchor(NamedTuple):
    """Weights computed without the forget set."""

    state: dict[str, Tensor]
    """Parameters and persistent buffers by name; for ``zeros`` parameters only: nothing is known of buffers."""
    digest: str
    """``weights_digest`` of the module with these weights."""


def anchor_of(module: nn.Module, anchor: str | Path, seed: int) -> Anchor:
    """Compute the anchor; the module stays as it is.

    Args:
        module: the network.
        anchor: ``initialisation`` (each layer's own ``reset_parameters``), ``zeros``, or a file of weights that
            were computed without the forget set.
        seed: of the draw of ``initialisation``, which may be known to anyone.

    Raises:
        MisconfigurationException: if ``initialisation`` cannot draw some parameter or buffer, or draws others from the
            same seed, or if the module cannot load a file.
        ValueError: if the file does not fit.

    Example:
        >>> anchor_of(nn.Linear(1, 1), "zeros", seed=0).state
        {'weight': tensor([[0.]]), 'bias': tensor([0.])}
    """
    before = _copy(module.state_dict())
    try:
        if anchor == ZEROS:
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
        elif anchor == INITIALISATION:
            _check_resettable(module)
            _draw(module, seed)
            first = weights_digest(module)
            _draw(module, seed)
            if weights_digest(module) != first:
                raise MisconfigurationException(
                    "anchor='initialisation' is not the same when it is drawn again from the same seed: some "
                    "reset_parameters() draws from another generator than torch's own (NumPy's, SciPy's, a "
                    "torch.Generator that it keeps); let it draw by torch (torch.nn.init), or give anchor=FILE saved "
                    "from a fresh model, or anchor='zeros'"
                )
        else:
            check_loads(module)
            load_weights(module, anchor)
        known = dict(module.named_parameters(remove_duplicate=False)) if anchor == ZEROS else module.state_dict()
        return Anchor(_copy(known), weights_digest(module))
    finally:
        _restore(module, before)


def check_unexposed(module: nn.Module, exposed: Sequence[nn.Parameter], anchor: Mapping[str, Tensor]) -> None:
    """Refuse any value, outside the exposed parameters, that training on the forget set may have changed.

    Parameters and persistent buffers must equal the anchor's bit for bit; running statistics of normalisation
    layers may also be as newly reset.

    Raises:
        MisconfigurationException: naming the first that does not.
    """
    hidden = {id(parameter) for parameter in exposed}
    covered = {name for name, p in module.named_parameters(remove_duplicate=False) if id(p) in hidden}
    covered |= _reset_statistics(module)
    for name, tensor in module.state_dict().items():
        if name in covered or (name in anchor and torch.equal(tensor, anchor[name].to(tensor.device))):
            continue
        raise MisconfigurationException(
            f"{name} is neither exposed nor equal to the anchor's, so it may carry the forget set into the released "
            "weights; expose it (exposed=..., requires_grad), give the anchor=FILE whose value it holds, or reset it. "
            "For weights that were frozen all the time, such as the base of LoRA, that is a file of the module with "
            "the pretrained ones in place, which were never trained on the forget set"
        )


def _draw(module: nn.Module, seed: int) -> None:
    with torch.random.fork_rng({p.device.index for p in module.parameters() if p.is_cuda}):
        torch.manual_seed(seed)
        reset_parameters(module)


def _restore(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name in before:
                overwrite(tensor, before[name])


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _reset_statistics(module: nn.Module) -> set[str]:
    """Names of running statistics that hold the values of a new layer."""
    fresh = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}
    return {
        name
        for name, buffer in module.named_buffers()
        if (last := name.rpartition(".")[2]) in fresh and bool((buffer == fresh[last]).all())
    }


def _check_resettable(module: nn.Module) -> None:
    saved = module.state_dict().keys()
    left = [name for name in stuck(module, reset_parameters) if name in saved]
    if left:
        raise MisconfigurationException(
            f"anchor='initialisation' cannot re-initialise {', '.join(left)}: the layer has no reset_parameters(); "
            "give anchor=FILE saved from a fresh model (with pretrained weights in place, where it has frozen ones), "
            "or add reset_parameters() to the layer"
        )
