"""Noise that every process draws alike and nobody else can draw (theory §4, "Distributed")."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from .ziggurat import standard_normal

_CPU_CHUNK, _DEVICE_CHUNK = 2**15, 2**18
"""Numbers drawn at once with a key of their own: part of what is drawn, and bounds what is held beside the weights."""


class KeyedNoise:
    """Standard Gaussian noise as a function of (secret, step, place), and of nothing else.

    Independent of the global seed, of dropout, data order, number of threads and of earlier draws, so processes that
    share the secret need no communication. The tensors are one long vector, cut into equal chunks; each chunk
    has a generator of its own, keyed with a BLAKE2b hash of secret, step and number of the chunk, and draws in double
    precision: single-precision normals end at 5.8 σ, which δ = 1e-7 can notice.

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
            tensors: of any shape, on one device; their order and sizes tell the place of each number.
            step: the draw, counted from 0.
            scale: σ.
        """
        on_cpu = tensors[0].device.type == "cpu"
        chunks = _chunks(tensors, _CPU_CHUNK if on_cpu else _DEVICE_CHUNK)
        keys = [self._key(step, index) for index in range(len(chunks))]
        (_add_on_cpu if on_cpu else _add_on_device)(chunks, keys, scale)

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


def _add_on_cpu(chunks: Sequence[Sequence[Tensor]], keys: Sequence[int], scale: float) -> None:
    """Draw with NumPy, on as many threads as torch may use: a chunk's stream is its own, whoever draws it."""
    threads = min(torch.get_num_threads(), len(chunks))

    def add(first: int) -> None:
        philox = np.random.Philox(key=0)
        random, start = np.random.Generator(philox), philox.state
        for chunk, key in zip(chunks[first::threads], keys[first::threads], strict=True):
            # As a new Philox(key=key), which would first ask the operating system for entropy that it does not use.
            start["state"]["key"] = np.frombuffer(key.to_bytes(16, "little"), "<u8")
            philox.state = start
            rest = torch.from_numpy(standard_normal(random, sum(part.numel() for part in chunk)))
            for part in chunk:
                part.add_(rest[: part.numel()].view_as(part), alpha=scale)
                rest = rest[part.numel() :]

    if threads == 1:
        add(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(add, range(threads)))


def _add_on_device(chunks: Sequence[Sequence[Tensor]], keys: Sequence[int], scale: float) -> None:
    """Draw with torch's generator of the device and add fused; the host waits for nothing."""
    device = chunks[0][0].device
    # MPS has no double precision.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    generator = torch.Generator(device)
    for chunk, key in zip(chunks, keys, strict=True):
        sizes = [part.numel() for part in chunk]
        drawn = torch.empty(sum(sizes), dtype=dtype, device=device)
        drawn.normal_(generator=generator.manual_seed(key & (2**63 - 1)))
        noise = drawn.to(chunk[0].dtype).split(sizes)  # type: ignore[no-untyped-call]
        torch._foreach_add_(list(chunk), [n.view_as(part) for n, part in zip(noise, chunk, strict=True)], alpha=scale)


def _chunks(tensors: Iterable[Tensor], size: int) -> list[list[Tensor]]:
    """Cut the one vector that the tensors are into chunks of ``size`` numbers of one dtype: views, each with no gap."""
    chunks: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        rest = _flat(tensor.detach())
        if rest.dim() > 1:
            chunks.append([rest])
            room = 0
            continue
        while len(rest):
            if not room or rest.dtype != chunks[-1][0].dtype:
                chunks.append([])
                room = size
            chunks[-1].append(rest[:room])
            room, rest = room - len(chunks[-1][-1]), rest[room:]
    return chunks


def _flat(tensor: Tensor) -> Tensor:
    """The numbers as they lie in memory, whatever the memory format; a tensor with gaps between them as it is."""
    if not tensor.is_contiguous():
        tensor = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    return tensor.view(-1) if tensor.is_contiguous() else tensor
