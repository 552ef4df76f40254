"""Dilations against scipy's morphology and the definitions, written out."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from erode.masks import DiskDilation, SpecificityWindow, SquareDilation, dilations

QUICK = settings(deadline=None, max_examples=40)
SHAPES = st.one_of(
    st.tuples(st.integers(3, 14), st.integers(3, 14)),
    st.tuples(st.integers(2, 6), st.integers(3, 7), st.integers(2, 6)),
)
REGIONS = SHAPES.flatmap(lambda shape: hnp.arrays(np.bool_, shape, elements=st.booleans()))
SPACINGS = st.one_of(st.none(), st.lists(st.sampled_from([0.1, 0.5, 0.7, 1.0, 2.5]), min_size=3, max_size=3))


def ball(half_width: float, ndim: int, spacing: list[float] | None) -> np.ndarray:
    """Structuring element of all pixels within ``half_width`` of the middle one."""
    sizes = spacing or [1.0] * ndim
    reach = [math.ceil(half_width / size) for size in sizes]
    offsets = np.ix_(*[np.square(np.arange(-r, r + 1) * size) for r, size in zip(reach, sizes, strict=True)])
    return sum(offsets) <= half_width**2 * (1 + 1e-6)


@QUICK
@given(REGIONS, st.sampled_from([0, 0.3, 0.7, 1, 1.4, 2, 2.5, 3.3]), SPACINGS)
def test_disk_is_scipys_dilation_by_a_ball(region, half_width, spacing):
    spacing = spacing and spacing[: region.ndim]
    expected = ndimage.binary_dilation(region, ball(half_width, region.ndim, spacing))
    np.testing.assert_array_equal(DiskDilation(half_width)(region.astype(int), spacing), expected)


@QUICK
@given(REGIONS, st.integers(0, 4))
def test_square_is_scipys_dilation_by_a_cube(region, half_width):
    expected = ndimage.binary_dilation(region, np.ones((2 * half_width + 1,) * region.ndim))
    np.testing.assert_array_equal(SquareDilation(half_width)(region.astype(int)), expected)


@QUICK
@given(REGIONS, st.integers(0, 3), st.integers(0, 3))
def test_square_half_widths_add_up(region, first, second):
    mask = region.astype(int)
    twice = SquareDilation(second)(SquareDilation(first)(mask))
    np.testing.assert_array_equal(twice, SquareDilation(first + second)(mask))


@QUICK
@given(REGIONS, st.floats(0, 8), st.floats(0, 8), SPACINGS)
def test_dilations_are_nested_and_zero_is_the_exact_mask(region, one, other, spacing):
    spacing = spacing and spacing[: region.ndim]
    exact, inner, outer = dilations(region, [0, min(one, other), max(one, other)], spacing)
    np.testing.assert_array_equal(exact, region)
    assert not (inner & ~outer).any()


@QUICK
@given(REGIONS, st.lists(st.floats(0, 8), min_size=1, max_size=5), SPACINGS)
def test_one_transform_gives_every_half_width(region, half_widths, spacing):
    spacing = spacing and spacing[: region.ndim]
    stack = dilations(region, half_widths, spacing)
    assert stack.shape == (len(half_widths), *region.shape)
    for found, half_width in zip(stack, half_widths, strict=True):
        np.testing.assert_array_equal(found, DiskDilation(half_width)(region.astype(int), spacing))


@QUICK
@given(REGIONS, st.sampled_from([0, 1, math.sqrt(2), 2, 2.5, 3]), SPACINGS)
def test_every_pixel_as_shallow_as_the_half_width_is_ring(region, half_width, spacing):
    spacing = spacing and spacing[: region.ndim]
    for coarsening, limit in ((DiskDilation(half_width), half_width), (SquareDilation(2), 2)):
        coarse = coarsening(region.astype(int), spacing) != 0
        depth = coarsening.position(coarse, spacing)
        assert (depth[region] > np.float32(limit)).all()


def test_depth_ignores_the_image_edge_and_counts_in_the_unit_of_the_spacing():
    region = np.array([[1, 1, 1, 0]] * 3, dtype=bool)
    np.testing.assert_array_equal(DiskDilation(1).position(region)[1], [3, 2, 1, np.nan])
    np.testing.assert_array_equal(SquareDilation(1).position(region)[1], [3, 2, 1, np.nan])
    np.testing.assert_array_equal(DiskDilation(1).position(region, (1, 0.5))[1], [1.5, 1, 0.5, np.nan])
    for coarsening in (DiskDilation(1), SquareDilation(1), SpecificityWindow(1)):
        assert np.isposinf(coarsening.position(np.ones((4, 5), dtype=bool))).all()


def test_a_length_in_millimetres_survives_rounding():
    mask = np.array([[1, 0, 0, 0, 0]])
    assert 3 * 0.1 > 0.3
    assert DiskDilation(0.3)(mask, (0.1, 0.1)).sum() == 4


@pytest.mark.parametrize("half_width", [0, 0.3, 1, 2.5, 8])
def test_one_bin_edge_is_the_half_width(half_width):
    edges = DiskDilation(half_width).position_edges
    assert np.isclose(edges, half_width).any()
    assert 0 < edges[1] <= 1


def by_definition(region: np.ndarray, specificity: int) -> np.ndarray:
    """Saab et al. (2022): 1 iff a foreground pixel is nearer than ⌊n/r⌋ along every axis."""
    limits = [n // specificity for n in region.shape]
    found = np.zeros_like(region)
    for here in itertools.product(*map(range, region.shape)):
        found[here] = any(
            all(abs(i - k) < limit for i, k, limit in zip(here, there, limits, strict=True))
            for there in np.argwhere(region)
        )
    return found


@settings(deadline=None, max_examples=15)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(3, 9), st.integers(3, 9))), st.integers(1, 9))
def test_specificity_window_is_the_published_definition(region, specificity):
    specificity = min(specificity, *region.shape)
    found = SpecificityWindow(specificity)(region.astype(int))
    np.testing.assert_array_equal(found, by_definition(region, specificity))


@pytest.mark.parametrize("specificity", range(1, 33))
def test_specificity_of_a_block_has_the_published_tightness(specificity):
    side, block = 32, 6
    mask = np.zeros((side, side), dtype=int)
    mask[13 : 13 + block, 13 : 13 + block] = 1  # in the middle, so both sides meet the image edge together
    grown = min(side, block + 2 * (side // specificity - 1))
    assert SpecificityWindow(specificity)(mask).sum() == grown**2


@QUICK
@given(REGIONS)
def test_lowest_specificity_is_an_image_label_and_highest_the_exact_mask(region):
    mask = region.astype(int)
    assert SpecificityWindow(1)(mask).all() == region.any()
    square = mask[tuple(slice(min(mask.shape)) for _ in mask.shape)]
    np.testing.assert_array_equal(SpecificityWindow(len(square))(square), square)


def test_specificity_finer_than_the_image_is_refused():
    with pytest.raises(ValueError, match="use at most 4"):
        SpecificityWindow(5)(np.eye(8, 4, dtype=int))
