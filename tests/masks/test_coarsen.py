"""Invariants that hold for every coarsening, and what is refused."""

import json

import jsonargparse
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from erode.masks import (
    BoundingBox,
    Coarsening,
    DiskDilation,
    SpecificityWindow,
    SquareDilation,
    image_class,
    ring,
    tightness,
)

QUICK = settings(deadline=None, max_examples=40)
SHAPES = st.one_of(
    st.tuples(st.integers(3, 14), st.integers(3, 14)),
    st.tuples(st.integers(2, 6), st.integers(3, 7), st.integers(2, 6)),
)
REGIONS = SHAPES.flatmap(lambda shape: hnp.arrays(np.bool_, shape))
COARSENINGS = st.one_of(
    st.builds(DiskDilation, st.floats(0, 6)),
    st.builds(SquareDilation, st.integers(0, 20)),
    st.builds(SpecificityWindow, st.integers(1, 2)),
    st.builds(BoundingBox, st.integers(0, 20), st.booleans()),
)


@QUICK
@given(REGIONS, COARSENINGS, st.sampled_from([np.uint8, np.int16, np.int64]), st.integers(1, 100))
def test_coarse_contains_fine_and_keeps_class_dtype_and_shape(region, coarsening, dtype, label):
    mask = (region * label).astype(dtype)
    before = mask.copy()
    coarse = coarsening(mask)
    assert coarse.dtype == dtype
    assert coarse.shape == mask.shape
    assert np.isin(coarse, (0, label)).all()
    assert (coarse[region] == label).all()
    np.testing.assert_array_equal(mask, before)
    assert not np.shares_memory(coarse, mask)
    assert coarse.any() == region.any()
    if region.all():
        np.testing.assert_array_equal(coarse, mask)


@QUICK
@given(REGIONS, COARSENINGS, st.randoms(use_true_random=False))
def test_a_larger_fine_mask_never_gives_a_smaller_coarse_one(region, coarsening, random):
    smaller = region & (np.array([random.random() for _ in range(region.size)]).reshape(region.shape) < 0.5)
    assert not (coarsening(smaller.astype(int)) > coarsening(region.astype(int))).any()


@QUICK
@given(REGIONS, COARSENINGS)
def test_positions_cover_the_region_and_fall_into_the_bins(region, coarsening):
    coarse = coarsening(region.astype(int)) != 0
    position, edges = coarsening.position(coarse), coarsening.position_edges
    assert position.dtype == edges.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(position), ~coarse)
    assert (position[coarse] >= edges[0]).all()
    assert (np.diff(edges) > 0).all()


@QUICK
@given(REGIONS, COARSENINGS)
def test_ring_and_tightness_partition_the_coarse_region(region, coarsening):
    fine = region.astype(int)
    coarse = coarsening(fine)
    between = ring(fine, coarse)
    np.testing.assert_array_equal(between | region, coarse != 0)
    assert not (between & region).any()
    gamma = tightness(fine, coarse)
    assert np.isnan(gamma) if not region.any() else gamma == pytest.approx(region.sum() / coarse.sum())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"class_path": "erode.masks.DiskDilation", "init_args": {"half_width": 3}}', DiskDilation(3.0)),
        ('{"class_path": "erode.masks.SquareDilation", "init_args": {"half_width": 3}}', SquareDilation(3)),
        (
            '{"class_path": "erode.masks.SpecificityWindow", "init_args": {"specificity": 4}}',
            SpecificityWindow(4),
        ),
        (
            '{"class_path": "erode.masks.BoundingBox", "init_args": {"per_component": true}}',
            BoundingBox(0, True),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its new name is younger than our lower bound
def test_settings_come_from_yaml_and_return_as_plain_data(text, expected):
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--coarsening", type=Coarsening)
    coarsening = parser.instantiate_classes(parser.parse_args([f"--coarsening={text}"])).coarsening
    assert coarsening == expected
    assert json.loads(json.dumps(coarsening.describe())) == expected.describe()


def test_different_settings_differ():
    coarsenings = [
        DiskDilation(2),
        DiskDilation(2.5),
        SquareDilation(2),
        SpecificityWindow(2),
        BoundingBox(2),
        BoundingBox(2, True),
    ]
    descriptions = [json.dumps(c.describe()) for c in coarsenings]
    assert len(set(descriptions)) == len(set(coarsenings)) == len(coarsenings)
    assert json.dumps(DiskDilation(2).describe()) == json.dumps(DiskDilation(2.0).describe())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[1, 2], [0, 0]]), r"\[1, 2\].*one case per class"),
        (np.array([[0, -1], [0, 0]]), r"\[-1\]"),
        (np.array([[3, -1], [0, 0]]), r"\[-1, 3\]"),
        (np.array([[0.0, 1.0]]), "float64; take the argmax"),
        (np.array([0, 1]), r"shape \[2\]"),
        (np.zeros((0, 4), dtype=int), r"shape \[0, 4\]"),
    ],
)
def test_a_mask_that_breaks_the_single_class_rule_is_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        image_class(mask)
    with pytest.raises(ValueError, match=message):
        BoundingBox()(mask)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DiskDilation(-1),
        lambda: DiskDilation(float("inf")),
        lambda: DiskDilation(float("nan")),
        lambda: SquareDilation(-1),
        lambda: SpecificityWindow(0),
        lambda: BoundingBox(-1),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (1.0, 1.0, 1.0)])
def test_impossible_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="2 positive numbers"):
        DiskDilation(1)(np.eye(3, dtype=int), spacing)


def test_ring_refuses_masks_that_are_not_nested():
    with pytest.raises(ValueError, match="2 foreground pixels"):
        ring(np.array([[1, 1, 1]]), np.array([[1, 0, 0]]))
    with pytest.raises(ValueError, match="shape"):
        ring(np.zeros((2, 2), dtype=int), np.zeros((2, 3), dtype=int))
