"""Noise that every process draws alike and nobody else can draw (theory §4, "Distributed")."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

_CPU_CHUNK, _DEVICE_CHUNK = 2**14, 2**18
"""Numbers drawn at once: what is held beside the weights, and on a CUDA device also part of what is drawn."""


class KeyedNoise:
    """Standard Gaussian noise as a function of (secret, step, tensor), and of nothing else.

    Independent of the global seed, of dropout, data order and the number of earlier draws, so processes that
    share the secret need no communication. Each tensor has a generator of its own, keyed with a BLAKE2b hash
    of the three, and draws in double precision: single-precision normals end at 5.8 σ, which δ = 1e-7 can
    notice.

    On a CUDA device the generator is torch's Philox with its 64-bit seed; on the CPU NumPy's Philox with a
    128-bit key, because torch's CPU generator keeps only 32 bits of its seed: among 10,000 draws two would be
    the same with probability 1 %, and trying all seeds would strip the noise. Neither is a cryptographic
    generator. Draws on GPUs of different models can differ; the noisy phase checks that ranks agree.

    Args:
        secret: of any length up to 64 bytes; never stored, printed or pickled.

    Example:
        >>> noise, weights = KeyedNoise(b"secret"), [torch.zeros(2), torch.zeros(2)]
        >>> first, second = noise.draw(weights, step=0)
        >>> torch.equal(first, noise.draw(weights, step=0)[0]), torch.equal(first, second)
        (True, False)
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def add_(self, tensors: Sequence[Tensor], step: int, scale: float) -> None:
        """Add N(0, scale²) to each tensor, in place, a bounded piece at a time: no copy of the tensors is made.

        Args:
            tensors: of any shape, on one device; the place of each in the sequence is its key.
            step: the draw, counted from 0.
            scale: σ.
        """
        keys = [self._key(step, index) for index in range(len(tensors))]
        if tensors[0].device.type == "cpu":
            _add_on_cpu(tensors, keys, scale)
        else:
            _add_on_device(tensors, keys, scale)

    def draw(self, like: Sequence[Tensor], step: int) -> list[Tensor]:
        """The noise alone: one tensor of N(0, 1) for each of ``like``, in its shape and dtype and on its device."""
        drawn = [torch.zeros_like(tensor, requires_grad=False) for tensor in like]
        self.add_(drawn, step, 1.0)
        return drawn

    def _key(self, step: int, index: int) -> int:
        text = f"{step} {index}".encode()
        return int.from_bytes(hashlib.blake2b(text, key=self._secret, digest_size=16).digest(), "little")

    def __repr__(self) -> str:
        return "KeyedNoise(secret not shown)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("KeyedNoise holds a secret that undoes the noise, so it cannot be copied or saved")


def shared_secret(broadcast: Callable[[bytes], bytes], seed: int | None = None) -> bytes:
    """A fresh secret of rank 0, on every rank.

    Args:
        broadcast: gives every rank what rank 0 gave, such as ``trainer.strategy.broadcast``.
        seed: for debugging only: makes the noise reproducible, and so worthless as a secret.

    Returns:
        32 bytes from the operating system, or the hash of ``seed``.

    Example:
        >>> shared_secret(lambda secret: secret) == shared_secret(lambda secret: secret)
        False
    """
    if seed is not None:
        return hashlib.sha256(f"debugging seed {seed}".encode()).digest()
    return broadcast(secrets.token_bytes(32))


def _add_on_cpu(tensors: Sequence[Tensor], keys: Sequence[int], scale: float) -> None:
    """Draw with NumPy, on as many threads as torch may use: a tensor's stream is its own, whoever draws it."""

    def add(index: int) -> None:
        tensor, normal = tensors[index].detach(), np.random.Generator(np.random.Philox(key=keys[index])).standard_normal
        flat = tensor.contiguous().view(-1)
        drawn = torch.empty(min(_CPU_CHUNK, flat.numel()), dtype=torch.float64)
        for part in flat.split(_CPU_CHUNK):  # type: ignore[no-untyped-call]
            normal(out=drawn.numpy()[: len(part)])
            part.add_(drawn[: len(part)], alpha=scale)
        if not tensor.is_contiguous():
            tensor.copy_(flat.view_as(tensor))

    largest_first = sorted(range(len(tensors)), key=lambda index: -tensors[index].numel())
    if torch.get_num_threads() == 1:
        for index in largest_first:
            add(index)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(add, largest_first))


def _add_on_device(tensors: Sequence[Tensor], keys: Sequence[int], scale: float) -> None:
    """Draw with torch's generator of the device and add fused; the host waits for nothing."""
    device = tensors[0].device
    # MPS has no double precision.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    generator = torch.Generator(device)
    for group in _groups(_parts(tensors, keys)):
        drawn = torch.empty(sum(part.numel() for part, _ in group), dtype=dtype, device=device)
        pieces = drawn.split([part.numel() for part, _ in group])  # type: ignore[no-untyped-call]
        for piece, (_, key) in zip(pieces, group, strict=True):
            if key is not None:
                generator.manual_seed(key & (2**63 - 1))
            piece.normal_(generator=generator)
        parts = [part for part, _ in group]
        noise = drawn.to(parts[0].dtype).split([part.numel() for part in parts])  # type: ignore[no-untyped-call]
        torch._foreach_add_(parts, [n.view_as(part) for n, part in zip(noise, parts, strict=True)], alpha=scale)


def _parts(tensors: Sequence[Tensor], keys: Sequence[int]) -> Iterator[tuple[Tensor, int | None]]:
    """Cut the tensors into pieces; the first of each comes with its key, the others go on with its stream."""
    for tensor, key in zip(tensors, keys, strict=True):
        whole = tensor.detach()
        # Another memory format has no flat view; such a tensor stays in one piece.
        pieces = whole.view(-1).split(_DEVICE_CHUNK) if whole.is_contiguous() else (whole,)  # type: ignore[no-untyped-call]
        for index, piece in enumerate(pieces):
            yield piece, None if index else key


def _groups(parts: Iterable[tuple[Tensor, int | None]]) -> Iterator[list[tuple[Tensor, int | None]]]:
    """Gather pieces of one dtype until they hold as many numbers as are drawn at once."""
    group: list[tuple[Tensor, int | None]] = []
    size = 0
    for part, key in parts:
        if group and (size + part.numel() > _DEVICE_CHUNK or part.dtype != group[0][0].dtype):
            yield group
            group, size = [], 0
        group.append((part, key))
        size += part.numel()
    if group:
        yield group
