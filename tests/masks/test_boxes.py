"""Bounding boxes and the elliptical radius in them."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from erode.masks import BoundingBox

QUICK = settings(deadline=None, max_examples=40)
SHAPES = st.one_of(
    st.tuples(st.integers(2, 14), st.integers(2, 14)),
    st.tuples(st.integers(2, 6), st.integers(2, 7), st.integers(2, 6)),
)
REGIONS = SHAPES.flatmap(lambda shape: hnp.arrays(np.bool_, shape, elements=st.integers(0, 9).map(lambda v: v == 0)))


def box_by_hand(region: np.ndarray, padding: int) -> np.ndarray:
    found = np.zeros_like(region)
    points = np.argwhere(region)
    if len(points):
        low, high = np.maximum(points.min(0) - padding, 0), points.max(0) + padding + 1
        found[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return found


@QUICK
@given(REGIONS, st.integers(0, 3))
def test_box_spans_the_extreme_pixels(region, padding):
    np.testing.assert_array_equal(BoundingBox(padding)(region.astype(int)), box_by_hand(region, padding))


@QUICK
@given(REGIONS, st.integers(0, 3))
def test_boxes_of_components_are_the_union_of_their_boxes(region, padding):
    components, count = ndimage.label(region, structure=np.ones((3,) * region.ndim))
    expected = np.zeros_like(region)
    for number in range(1, count + 1):
        expected |= box_by_hand(components == number, padding)
    np.testing.assert_array_equal(BoundingBox(padding, per_component=True)(region.astype(int)), expected)


@QUICK
@given(REGIONS)
def test_a_box_is_its_own_box(region):
    once = BoundingBox()(region.astype(int))
    np.testing.assert_array_equal(BoundingBox()(once), once)


@QUICK
@given(SHAPES, st.data())
def test_radius_is_one_on_the_inscribed_ellipse(shape, data):
    low = [data.draw(st.integers(0, n - 1)) for n in shape]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, shape, strict=True)]
    region = np.zeros(shape, dtype=bool)
    region[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    radius = BoundingBox().position(region)
    for point in np.argwhere(region):
        expected = math.hypot(
            *((p + 0.5 - (a + b) / 2) / ((b - a) / 2) for p, a, b in zip(point, low, high, strict=True))
        )
        assert math.isclose(radius[tuple(point)], expected, rel_tol=1e-6, abs_tol=1e-6)
    assert np.nanmax(radius) < math.sqrt(len(shape))


def test_inscribed_ellipse_fills_pi_quarters_of_its_box():
    radius = BoundingBox().position(np.ones((400, 300), dtype=bool))
    assert abs((radius <= 1).mean() - math.pi / 4) < 1e-3


def test_separate_boxes_have_a_centre_each():
    region = np.zeros((5, 11), dtype=bool)
    region[1:4, 1:4] = region[1:4, 7:10] = True
    each, whole = BoundingBox(per_component=True).position(region), BoundingBox().position(region)
    assert each[2, 2] == each[2, 8] == 0
    assert whole[2, 2] == whole[2, 8] > 0.5
    assert np.isnan(each[2, 5])
    assert np.isnan(whole[2, 5])
