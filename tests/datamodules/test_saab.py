"""Claims of the block-and-noise data: the published recipe, number by number."""

from __future__ import annotations

from collections import Counter
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from erode.datamodules.saab import SaabSynthetic, place_blocks
from erode.masks import SpecificityWindow


def test_numbers_of_images_follow_the_recipe():
    data = SaabSynthetic()
    counts = {part: Counter((c.label, c.flags["any"]) for c in data.part(part)) for part in ("train", "val", "test")}
    assert counts["train"] == {(1, 1): 135, (0, 0): 15}
    assert counts["val"] == {(1, 1): 45, (0, 0): 5}
    assert counts["test"] == {(y, s): 100 for y in (0, 1) for s in (0, 1)}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 40), st.data())
def test_blocks_are_square_and_disjoint(seed, size, data):
    first = data.draw(st.integers(0, size))
    second = data.draw(st.integers(0, size - first))
    masks = place_blocks(np.random.default_rng(seed), size, (first, second))
    for mask, side in zip(masks, (first, second), strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == side**2
        assert len(rows) == len(columns) == side
        if side:
            assert np.ptp(rows) == np.ptp(columns) == side - 1
    assert not (masks[0] & masks[1]).any()


def test_every_disjoint_arrangement_is_equally_likely():
    """3 by 3 pixels, blocks of sides 1 and 2: 4 places of the larger leave 5 pixels to the smaller."""
    rng = np.random.default_rng(0)
    counts = Counter(place_blocks(rng, 3, (1, 2)).tobytes() for _ in range(4000))
    assert len(counts) == 20
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_a_lone_block_reaches_every_place_equally():
    rng = np.random.default_rng(1)
    counts = Counter(place_blocks(rng, 4, (0, 2)).tobytes() for _ in range(3000))
    assert len(counts) == 9
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_pixels_are_normal_around_the_three_means():
    data = SaabSynthetic()
    pools: dict[str, list[np.ndarray]] = {"background": [], "abnormal": [], "spurious": []}
    for case in data.part("train"):
        arrays = data.read(case)
        assert arrays.mask.sum() == 64 * case.label
        assert arrays.artefact.sum() == 144 * case.flags["any"]
        assert not (arrays.mask & arrays.artefact).any()
        pools["abnormal"].append(arrays.image[0][arrays.mask == 1])
        pools["spurious"].append(arrays.image[0][arrays.artefact == 1])
        pools["background"].append(arrays.image[0][(arrays.mask == 0) & (arrays.artefact == 0)])
    for name, mean in (("background", 0.0), ("abnormal", 2.0), ("spurious", -10.0)):
        pixels = np.concatenate(pools[name])
        error = 4 / np.sqrt(len(pixels))
        assert pixels.mean() == pytest.approx(mean, abs=error)
        assert pixels.std() == pytest.approx(1.0, abs=error)


@pytest.mark.parametrize("specificity", [1, 2, 4, 8, 10, 20, 40])
def test_coarse_masks_have_the_published_tightness(specificity):
    """γ = a² / min{n, a + 2(⌊n/r⌋ − 1)}² where the image border clips nothing (theory §7.4)."""
    side, block = 40, 8
    half_width = side // specificity - 1
    mask = np.zeros((side, side), dtype=np.int64)
    mask[16:24, 16:24] = 1
    coarse = SpecificityWindow(specificity)(mask)
    assert ceil(side / specificity) == side // specificity
    assert mask.sum() / coarse.sum() == block**2 / min(side, block + 2 * half_width) ** 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"abnormal_side": 30}, "do not fit beside each other"),
        ({"val_images": 0}, "val_images must be at least 1"),
        ({"correlation": 1.2}, "correlation must lie between 0 and 1"),
        ({"noise": -1.0}, "noise must not be negative"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SaabSynthetic(**arguments)


def test_same_seed_same_data_and_other_seed_other_data():
    first, again, other = (SaabSynthetic(seed=seed) for seed in (0, 0, 1))
    for case in first.part("test")[:5]:
        assert np.array_equal(first.read(case).image, again.read(case).image)
        assert not np.array_equal(first.read(case).image, other.read(case).image)
