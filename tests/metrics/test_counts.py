import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.metrics.counts import canonical_order, check_classes, check_shapes, count_cells, fuse, keep_counted


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    images=st.integers(1, 4),
)
@settings(deadline=None, max_examples=30)
def test_tables_equal_counting_by_hand(sizes, seed, images):
    """Also above 256 cells, where the index leaves the byte."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randint(size, (images, 3, 5), generator=generator) for size in sizes]
    cells = int(torch.tensor(sizes).prod())
    codes = fuse(*zip(maps, sizes, strict=True))

    expected = torch.zeros(images, 15, *sizes, dtype=torch.int64)
    for image in range(images):
        for pixel in range(15):
            where = tuple(int(values[image].flatten()[pixel]) for values in maps)
            expected[(image, pixel, *where)] += 1

    assert torch.equal(count_cells(codes, cells).view(sizes), expected.sum((0, 1)))
    assert torch.equal(count_cells(codes, cells, by="image").view(-1, *sizes), expected.sum(1))
    assert torch.equal(count_cells(codes, cells, by="pixel").view(-1, *sizes), expected.sum(0))


def test_fusing_leaves_its_input_alone():
    values = torch.tensor([[1, 0]], dtype=torch.uint8)
    fuse((values, 2), (values, 2))
    assert values.tolist() == [[1, 0]]


@given(st.permutations(range(6)))
@settings(deadline=None, max_examples=20)
def test_canonical_order_forgets_the_order(order):
    rows = torch.tensor([[3, 1], [0, 5], [3, 1], [0, 2], [3, 0], [1, 1]], dtype=torch.uint8)
    assert torch.equal(canonical_order(rows[order]), canonical_order(rows))
    assert sorted(canonical_order(rows).tolist()) == sorted(rows.tolist())


def test_wrong_maps_are_named():
    with pytest.raises(ValueError, match="argmax"):
        check_classes("pred", torch.rand(1, 2), 2)
    with pytest.raises(ValueError, match=r"mask holds classes -1\.\.0"):
        check_classes("mask", torch.tensor([[-1, 0]]), 2)
    with pytest.raises(ValueError, match="pred"):
        check_shapes(pred=torch.zeros(1, 2), mask=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="counted must be bool"):
        keep_counted(torch.ones(1), torch.zeros(1, 2))
