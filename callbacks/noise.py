"""Noise that every process draws alike and nobody else can draw (theory §4, "Distributed")."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor


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

    def draw(self, like: Sequence[Tensor], step: int) -> list[Tensor]:
        """Draw one tensor of N(0, 1) for each of ``like``, in its shape and dtype and on its device."""
        return [self._normal(tensor, self._key(step, index)) for index, tensor in enumerate(like)]

    def _key(self, step: int, index: int) -> int:
        text = f"{step} {index}".encode()
        return int.from_bytes(hashlib.blake2b(text, key=self._secret, digest_size=16).digest(), "little")

    @staticmethod
    def _normal(tensor: Tensor, key: int) -> Tensor:
        if tensor.device.type == "cpu":
            values = np.random.Generator(np.random.Philox(key=key)).standard_normal(tuple(tensor.shape))
            return torch.as_tensor(values, dtype=tensor.dtype)
        generator = torch.Generator(tensor.device).manual_seed(key & (2**63 - 1))
        # MPS has no double precision.
        dtype = torch.float64 if tensor.device.type == "cuda" else torch.float32
        drawn = torch.empty(tensor.shape, dtype=dtype, device=tensor.device).normal_(generator=generator)
        return drawn.to(tensor.dtype)

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
