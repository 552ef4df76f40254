"""Batches taken apart, sample by sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

FINGERPRINT = 2**40
"""Fingerprints lie below this, so that sums of millions of them are exact."""


def samples_of(batch: Any) -> Iterator[Any]:
    """Yield each sample of a batch as a batch of one.

    Args:
        batch: a tensor, or dicts, tuples and lists of tensors and plain values, that share their first axis.

    Raises:
        ValueError: where there is no tensor.

    Example:
        >>> import torch
        >>> [one["id"] for one in samples_of({"image": torch.zeros(2, 3), "id": ["a", "b"]})]
        [['a'], ['b']]
    """
    tensors = list(_tensors(batch))
    if not tensors:
        raise ValueError(f"a batch of {type(batch).__name__} holds no tensor, so its samples cannot be told apart")
    size = len(tensors[0])
    for index in range(size):
        yield _slice(batch, index, size)


def fingerprint(sample: Any) -> int:
    """A number that depends on all tensors of a sample, bit for bit.

    Example:
        >>> import torch
        >>> fingerprint(torch.zeros(1, 2)) == fingerprint(torch.zeros(1, 2)) != fingerprint(torch.ones(1, 2))
        True
    """
    digest = hashlib.blake2b(digest_size=8)
    for tensor in _tensors(sample):
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "little") % FINGERPRINT


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _tensors(value)
    elif isinstance(part, (tuple, list)):
        for value in part:
            yield from _tensors(value)


def _slice(part: Any, index: int, size: int) -> Any:
    if isinstance(part, Tensor):
        return part[index : index + 1] if part.ndim and len(part) == size else part
    if isinstance(part, Mapping):
        return {key: _slice(value, index, size) for key, value in part.items()}
    if isinstance(part, (tuple, list)):
        if any(True for _ in _tensors(part)):
            return [_slice(value, index, size) for value in part]
        return [part[index]] if len(part) == size else part
    return part
