"""Noise whose keys are set, ready to be added to weights once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Generator
from torch.autograd.graph import increment_version

from .chunks import Chunk
from .keystream import KeyStream
from .ziggurat import standard_normal

_LARGE = 2**20 + 1
"""Bytes that torch finds room for among large pieces of memory, where places are mostly the same at each step."""


class Draw(Protocol):
    """One draw of noise for some weights."""

    def add_(self) -> None:
        """Add it, in place; on a device nothing but launches."""


class CPUDraw:
    """Noise from an AES key stream for each chunk.

    Args:
        chunks: of the weights.
        keys: one for each.
        scale: σ.
    """

    def __init__(self, chunks: Sequence[Chunk], keys: Sequence[bytes], scale: float) -> None:
        self.scale = scale
        self._chunks = chunks
        self._keys = keys

    def add_(self) -> None:
        """Draw and add on one thread: two would wait for Python's lock, and for one another, longer than they work."""
        for chunk, key in zip(self._chunks, self._keys, strict=True):
            drawn = standard_normal(KeyStream(key), chunk.numel)
            drawn *= self.scale
            for part, noise in zip(chunk.parts, chunk.split(torch.from_numpy(drawn)), strict=True):
                if part.dtype in (torch.float32, torch.float64):
                    weights = part.numpy()
                    weights += noise.numpy()
                    increment_version(part)
                else:
                    part.add_(noise)


class DeviceDraw:
    """Noise from torch's generator of a device; its host waits for nothing.

    What it works in is laid out before anything is launched, so that launches can be recorded, and go back to the
    device's other work with the draw.

    Args:
        chunks: of the weights.
        generator: seeded for this draw; the chunks follow one another in its stream.
        scale: σ.
    """

    def __init__(self, chunks: Sequence[Chunk], generator: Generator, scale: float) -> None:
        self.scale = scale
        self.generator = generator
        self._chunks = chunks
        # MPS has no double precision.
        wide = torch.float32 if generator.device.type == "mps" else torch.float64
        longest = max((chunk.numel for chunk in chunks), default=0)
        split = wide.itemsize * longest
        joined = max((chunk.parts[0].element_size() for chunk in chunks if len(chunk.parts) > 1), default=0)
        size = max(split + joined * longest, _LARGE)
        self.memory = torch.empty(size, dtype=torch.uint8, device=generator.device)
        """What it works in: room for the longest chunk in double precision, and as it is."""
        self._drawn, self._joined = self.memory[:split].view(wide), self.memory[split : split + joined * longest]

    def add_(self) -> None:
        """Draw and add fused, a chunk at a time."""
        for chunk in self._chunks:
            drawn = self._drawn[: chunk.numel].normal_(generator=self.generator)
            if len(chunk.parts) == 1:
                chunk.parts[0].add_(chunk.split(drawn)[0], alpha=self.scale)
                continue
            joined = self._joined.view(chunk.parts[0].dtype)[: chunk.numel]
            torch._foreach_copy_(list(chunk.split(joined)), chunk.parts)
            torch.add(joined, drawn, alpha=self.scale, out=drawn)
            torch._foreach_copy_(chunk.parts, list(chunk.split(drawn)))
