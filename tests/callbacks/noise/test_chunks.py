"""One vector in pieces: every number once, in order, whatever the tensors."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from erode.callbacks.noise.chunks import cut

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=6)


@given(shapes=SHAPES, size=st.integers(1, 9))
def test_every_number_lies_in_one_chunk_in_order(shapes, size):
    tensors = [torch.zeros(shape) for shape in shapes]
    chunks = cut(tensors, size)
    numbers = torch.arange(float(sum(chunk.numel for chunk in chunks)))
    place = 0
    for chunk in chunks:
        for part, piece in zip(chunk.parts, chunk.split(numbers[place : place + chunk.numel]), strict=True):
            part.add_(piece)
        place += chunk.numel
    assert torch.equal(torch.cat([tensor.flatten() for tensor in tensors]), numbers)
    assert all(chunk.numel == size for chunk in chunks[:-1])
