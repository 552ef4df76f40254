"""Noise that every process draws alike and nobody else can draw (theory §4, "Distributed")."""

from __future__ import annotations

import hashlib
import operator
import secrets
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from .chunks import Chunk, cut
from .draws import CPUDraw, DeviceDraw, Draw
from .keystream import KEY_BYTES

_CPU_CHUNK, _DEVICE_CHUNK = 2**16, 2**21
"""Numbers drawn at once: part of what is drawn, and bounds what is held beside the weights.

On a GPU 24 MB: what its host has to launch costs more than that.
"""


class KeyedNoise:
    """Standard Gaussian noise as a function of (secret, step, place), and of nothing else.

    Independent of the global seed, of dropout, data order, number of threads and of earlier draws, so processes that
    share the secret need no communication. The tensors are one long vector, cut into equal chunks. Keys are BLAKE2b
    hashes of secret and step, and normals are drawn in double precision: those of single precision end at 5.8 σ, which
    δ = 1e-7 can notice.

    On the CPU the generator is AES, a cryptographic one, with a key for each chunk. On a CUDA device it is torch's
    Philox with its 64-bit seed, one for each step, which is not, but lets the host wait for nothing. (Torch's CPU
    generator keeps only 32 bits of its seed: among 10,000 draws two would be the same with probability 1 %, and trying
    all seeds would strip the noise.) Draws on GPUs of different models can differ; the noisy phase checks that ranks
    agree.

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
        self._tensors: list[Tensor] = []
        self._places: list[int] = []
        self._chunks: list[Chunk] = []
        self._generator: torch.Generator | None = None

    def keyed(self, tensors: Sequence[Tensor], step: int, scale: float) -> Draw:
        """N(0, scale²) for each tensor, ready to be added in place, a bounded piece at a time.

        The sum is formed in double precision and rounded once to the tensor's own, so the result is a function of
        tensor plus noise alone; noise rounded by itself would not be. (MPS has single precision only.)

        Args:
            tensors: of any shape, on one device; their order and sizes tell the place of each number.
            step: the draw, counted from 0.
            scale: σ.
        """
        chunks, device = self._cut(tensors), tensors[0].device
        if device.type == "cpu":
            return CPUDraw(chunks, [self._key(step, index) for index in range(len(chunks))], scale)
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device)
        self._generator.manual_seed(int.from_bytes(self._key(step, 0), "little") & (2**63 - 1))
        return DeviceDraw(chunks, self._generator, scale)

    def add_(self, tensors: Sequence[Tensor], step: int, scale: float) -> None:
        """Add N(0, scale²) to each tensor, in place; see :meth:`keyed`."""
        self.keyed(tensors, step, scale).add_()

    def draw(self, like: Sequence[Tensor], step: int) -> list[Tensor]:
        """The noise alone: one tensor of N(0, 1) for each of ``like``, in its shape and dtype and on its device."""
        drawn = [torch.zeros_like(tensor, requires_grad=False) for tensor in like]
        self.add_(drawn, step, 1.0)
        self._tensors, self._chunks = [], []  # else what was drawn would stay as long as this object
        return drawn

    def _cut(self, tensors: Sequence[Tensor]) -> list[Chunk]:
        """As at the draw before, if it was for the same tensors: cutting costs a GPU's host as much as drawing."""
        places = [*map(Tensor.data_ptr, tensors), *map(Tensor.numel, tensors)]
        same = len(tensors) == len(self._tensors) and all(map(operator.is_, tensors, self._tensors))
        if not same or places != self._places:
            size = _CPU_CHUNK if tensors[0].device.type == "cpu" else _DEVICE_CHUNK
            self._tensors, self._places, self._chunks = list(tensors), places, cut(tensors, size)
        return self._chunks

    def _key(self, step: int, index: int) -> bytes:
        text = f"{step} {index}".encode()
        return hashlib.blake2b(text, key=self._secret, digest_size=KEY_BYTES).digest()

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
