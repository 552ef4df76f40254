"""The position prior: an honest estimate, smooth where data are few, and free of any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from erode.batch import NO_PRIOR
from erode.masks import BoundingBox, DiskDilation, PositionPrior, SpecificityWindow, SquareDilation

QUICK = settings(deadline=None, max_examples=30)
COARSENINGS = st.one_of(
    st.builds(DiskDilation, st.floats(0, 4)),
    st.builds(SquareDilation, st.integers(0, 4)),
    st.builds(SpecificityWindow, st.integers(1, 2)),
    st.builds(BoundingBox, st.integers(0, 3), st.booleans()),
)
REGIONS = hnp.arrays(np.bool_, (12, 10)).filter(np.any)


def disk(side: int, radius: float) -> np.ndarray:
    offset = np.arange(side) - (side - 1) / 2
    return (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.int64)


def pair(fine, coarsening):
    return fine, coarsening(fine)


@QUICK
@given(st.lists(REGIONS, min_size=1, max_size=4), COARSENINGS)
def test_counts_are_those_of_a_loop_over_pixels(regions, coarsening):
    prior = PositionPrior.fit([pair(region.astype(int), coarsening) for region in regions], coarsening)
    edges = coarsening.position_edges
    total, lesion = [0] * (edges.size - 1), [0] * (edges.size - 1)
    for region in regions:
        coarse = coarsening(region.astype(int)) != 0
        for t, foreground in zip(coarsening.position(coarse)[coarse], region[coarse], strict=True):
            b = next((i for i in range(edges.size - 1) if t <= edges[i + 1]), edges.size - 2)
            total[b] += 1
            lesion[b] += int(foreground)
    assert prior.total == tuple(total)
    assert prior.foreground == tuple(lesion)


@QUICK
@given(st.lists(REGIONS, min_size=1, max_size=4), COARSENINGS, st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(regions, coarsening, random):
    pairs = [pair(region.astype(int), coarsening) for region in regions]
    prior = PositionPrior.fit(pairs, coarsening)
    random.shuffle(pairs)
    again = PositionPrior.fit(iter(pairs), coarsening)
    assert again == prior


@QUICK
@given(st.lists(REGIONS, min_size=1, max_size=4), COARSENINGS, REGIONS)
def test_prior_is_a_probability_inside_and_absent_outside(regions, coarsening, other):
    prior = PositionPrior.fit([pair(region.astype(int), coarsening) for region in regions], coarsening)
    coarse = coarsening(other.astype(int) * 3)
    found = prior(coarse)
    assert found.dtype == np.float32
    assert (found[coarse == 0] == NO_PRIOR).all()
    assert ((found[coarse != 0] >= 0) & (found[coarse != 0] <= 1)).all()


def test_estimate_converges_to_the_truth_for_a_known_shape():
    """Disks in boxes: the lesion is exactly the inscribed ellipse, so q = 1 up to radius 1 and 0 beyond."""
    coarsening = BoundingBox()
    prior = PositionPrior.fit([pair(disk(200, r), coarsening) for r in (60, 75, 90)], coarsening)
    edges = coarsening.position_edges
    inside, outside = edges[1:] <= 0.95, (edges[:-1] >= 1.05) & (edges[1:] <= 1.4)
    assert (prior.table[inside] > 0.99).all()
    assert (prior.table[outside] < 0.01).all()


def test_prior_of_random_lesions_matches_the_rate_on_fresh_ones():
    """Calibration on images the prior has not seen, which is what the retain view relies on."""
    generator = np.random.default_rng(0)
    coarsening = DiskDilation(3)

    def lesion():
        noise = generator.random((48, 48))
        return (disk(48, generator.uniform(8, 15)) & (noise < 0.02)).astype(np.int64)

    prior = PositionPrior.fit([pair(lesion(), coarsening) for _ in range(60)], coarsening)
    fresh = [pair(lesion(), coarsening) for _ in range(60)]
    said = np.concatenate([prior(coarse)[coarse != 0] for _, coarse in fresh])
    true = np.concatenate([fine[coarse != 0] for fine, coarse in fresh])
    for value in np.unique(said):
        chosen = said == value
        if chosen.sum() > 500:
            error = 4 * np.sqrt(value * (1 - value) / chosen.sum()) + 0.02  # pixels of an image are correlated
            assert abs(true[chosen].mean() - value) < error


def test_smoothing_keeps_rich_bins_and_fills_empty_ones():
    coarsening = SquareDilation(1)
    bins = coarsening.position_edges.size - 1
    foreground, total = [0] * bins, [0] * bins
    foreground[10], total[10] = 9_000, 10_000
    foreground[14], total[14] = 1, 1
    table = PositionPrior(coarsening, tuple(foreground), tuple(total)).table
    assert table[10] == pytest.approx(0.9, abs=1e-4)
    assert table[14] == pytest.approx(0.9, abs=0.02)  # one pixel does not make a rate
    assert table[0] == pytest.approx(0.9, abs=1e-3)
    assert np.isfinite(table).all()
    assert table[-1] == pytest.approx(0.9, abs=0.02)


def test_the_ring_of_a_dilation_is_certain_background():
    """Depth up to the half-width proves background (masks.dilation); smoothing leaves it so."""
    coarsening = DiskDilation(4)
    prior = PositionPrior.fit([pair(disk(96, r), coarsening) for r in (15, 20, 30)], coarsening)
    assert (prior.table[:4] < 0.02).all()
    assert (prior.table[6:30] > 0.98).all()


def test_spacing_counts_depth_in_its_own_unit():
    coarsening = DiskDilation(2)
    fine = disk(64, 15)
    coarse = coarsening(fine, (0.5, 0.5))
    prior = PositionPrior.fit([(fine, coarse)], coarsening, spacings=[(0.5, 0.5)])
    assert prior.total[0] == (coarsening.position(coarse != 0, (0.5, 0.5)) <= 1).sum()
    assert prior(coarse, (0.5, 0.5))[31, 31] > 0.9
    with pytest.raises(ValueError, match="zip"):
        PositionPrior.fit([(fine, coarse)], coarsening, spacings=[])


def test_nothing_to_count_is_refused():
    empty = np.zeros((5, 5), dtype=int)
    for pairs in ([], [(empty, empty)]):
        with pytest.raises(ValueError, match="raise fine_fraction"):
            PositionPrior.fit(pairs, DiskDilation(2))


def test_impossible_counts_are_refused():
    prior = PositionPrior.fit([pair(disk(32, 8), DiskDilation(2))], DiskDilation(2))
    with pytest.raises(ValueError, match="fit it again"):
        PositionPrior(prior.coarsening, tuple(n + 1 for n in prior.total), prior.total)
    with pytest.raises(ValueError, match="256 bins"):
        PositionPrior(prior.coarsening, prior.foreground, (1,))
