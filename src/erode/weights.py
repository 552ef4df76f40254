"""Weights and nothing else: digest, release and restore."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .files import write_atomically


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every parameter and persistent buffer, in name order.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_digest(layer)
        >>> _ = layer.bias.data.add_(1)
        >>> before == weights_digest(layer)
        False
    """
    return state_digest({k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)})


def state_digest(state: Mapping[str, Tensor]) -> str:
    """``weights_digest`` of a module with this state.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> state_digest(layer.state_dict()) == weights_digest(layer)
        True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_weights(module: nn.Module, path: str | Path) -> Path:
    """Write parameters and persistent buffers as safetensors, atomically: no optimiser, no EMA, no code.

    Tensors that share memory are written once under each name.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    return write_atomically(path, lambda target: save_file(tensors, target))


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Restore weights, and only weights, from safetensors, a Lightning checkpoint or a saved state dict.

    Args:
        module: receives the weights; must have the architecture they came from.
        path: ``.safetensors``, or a file of ``torch.save`` that loads with ``weights_only=True``.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is no set of weights, or of another architecture; names what differs. Also where the
            module does not take what it is given, as hooks and overrides of ``load_state_dict`` that skip a head do.
    """
    path = Path(path)
    state = read_state(path)
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    reshaped = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or unexpected or reshaped:
        parts = [
            f"{len(names)} {what}, e.g. {names[0]}"
            for names, what in ((missing, "missing"), (unexpected, "unknown"), (reshaped, "of another shape"))
            if names
        ]
        raise ValueError(
            f"{path} holds weights of another architecture ({'; '.join(parts)}); "
            "use the model configuration those weights were trained with"
        )
    module.load_state_dict(state)
    kept = next((name for name, tensor in module.state_dict().items() if not _same(tensor, state[name])), None)
    if kept is not None:
        raise ValueError(
            f"{kept} is not what {path} holds although it was loaded: load_state_dict of {type(module).__name__} or a "
            "hook leaves it out or changes it; let it load all weights, or restore them in another way"
        )


def _weights_near(path: Path) -> str:
    """What to give in place of a path that is no file: those in a folder, if there are any."""
    inside = [place / "weights.safetensors" for place in (path, path / "unlearned")]
    return next((str(file) for file in inside if file.is_file()), "the released .safetensors or a .ckpt")


def _same(tensor: Tensor, stored: Tensor) -> bool:
    """Number for number, in the dtype of the first."""
    held = tensor.detach().cpu()
    return torch.allclose(held, stored.detach().cpu().to(held.dtype), rtol=0, atol=0, equal_nan=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name from safetensors, a Lightning checkpoint or a saved state dict.

    Raises:
        ValueError: where the file is none of them.
    """
    return state_in(read_content(path), path)


def read_content(path: Path, mapped: bool = False) -> Any:
    """All that a file of weights holds: tensors by name, or what was saved with them.

    Args:
        path: the file; its suffix tells the format.
        mapped: leave the tensors of a checkpoint in the file until they are used.

    Raises:
        ValueError: where it is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; give {_weights_near(path)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch's own words advise to load what may run code
        why = "" if path.suffix != ".safetensors" else f" ({error})"
        raise ValueError(
            f"{path} cannot be read as weights{why}; give a complete .safetensors file, or a checkpoint or state dict "
            "that torch.save wrote of tensors and plain values alone"
        ) from error


def state_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in what a file holds.

    Raises:
        ValueError: where there are none; names ``path``.
    """
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict; save one with torch.save(module.state_dict(), path)")
    return state
