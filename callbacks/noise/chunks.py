"""Many tensors as one long vector, cut into pieces of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """A piece of the vector.

    Args:
        parts: views of the tensors, of one dtype, in order: flat, or a single tensor with gaps between its numbers.
    """

    parts: list[Tensor]

    @cached_property
    def sizes(self) -> list[int]:
        """How many numbers each part has."""
        return [part.numel() for part in self.parts]

    @cached_property
    def numel(self) -> int:
        """How many numbers all have."""
        return sum(self.sizes)

    def split(self, flat: Tensor) -> Sequence[Tensor]:
        """Views of as many numbers in a row, one for each part and in its shape."""
        if self.parts[0].dim() > 1:
            return [flat.view_as(self.parts[0])]
        pieces: Sequence[Tensor] = torch.split_with_sizes(flat, self.sizes)
        return pieces


def cut(tensors: Sequence[Tensor], size: int) -> list[Chunk]:
    """The chunks of the one vector that the tensors are.

    Args:
        tensors: of any shapes and memory formats.
        size: numbers in each chunk, but in the last of a dtype; a tensor with gaps is a chunk of its own.

    Example:
        >>> import torch
        >>> [chunk.numel for chunk in cut([torch.zeros(2, 2), torch.zeros(5)], 3)]
        [3, 3, 3]
    """
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
    return [Chunk(parts) for parts in chunks]


def _flat(tensor: Tensor) -> Tensor:
    """The numbers as they lie in memory, whatever the memory format; a tensor with gaps between them as it is."""
    if not tensor.is_contiguous():
        tensor = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    return tensor.view(-1) if tensor.is_contiguous() else tensor
