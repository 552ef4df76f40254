"""Normals from random bits: the whole distribution, rims and tail included."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from erode.callbacks.noise import ziggurat
from erode.callbacks.noise.keystream import KeyStream
from erode.callbacks.noise.ziggurat import standard_normal


def random(key):
    return KeyStream(key.to_bytes(16, "little"))


@pytest.fixture(scope="module")
def drawn():
    source = random(1)
    return np.concatenate([standard_normal(source, 2**15) for _ in range(128)])


def test_the_layers_end_at_the_peak():
    """The start is the root of an equation: layers of equal area that are as many as there are."""

    def above_the_peak(start):
        height = math.exp(-0.5 * start**2)
        area = start * height + math.sqrt(2 * math.pi) * stats.norm.sf(start)
        edge = start
        for _ in range(ziggurat._LAYERS - 2):
            height += area / edge
            if height >= 1:
                return 1.0
            edge = math.sqrt(-2 * math.log(height))
        return height + area / edge - 1

    assert optimize.brentq(above_the_peak, 4.03, 4.05, xtol=1e-14) == pytest.approx(ziggurat._START, abs=1e-13)


def test_it_is_standard_gaussian(drawn):
    assert stats.kstest(drawn[:500_000], "norm").pvalue > 1e-3
    z = [drawn.mean(), (drawn**2 - 1).mean() / 2**0.5, (drawn**3).mean() / 15**0.5, (drawn**4 - 3).mean() / 96**0.5]
    assert max(np.abs(z)) * len(drawn) ** 0.5 < 4


def test_each_layer_gets_its_share_on_both_sides(drawn):
    """Between two edges lie numbers of many layers, and only the right rims make their sum right."""
    edges = ziggurat._EDGES[1:-1]
    edges = np.concatenate([[-np.inf], -edges, [0.0], edges[::-1], [np.inf]])
    found, _ = np.histogram(drawn, edges)
    assert stats.chisquare(found, np.diff(stats.norm.cdf(edges)) * len(drawn)).pvalue > 1e-3


def test_neighbours_are_independent(drawn):
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) * len(drawn) ** 0.5 < 4
    assert abs(np.corrcoef(drawn[:-1] ** 2, drawn[1:] ** 2)[0, 1]) * len(drawn) ** 0.5 < 4


def test_the_tail_has_its_mass_and_goes_on(drawn):
    start = ziggurat._START
    outside = int((np.abs(drawn) > start).sum())
    assert stats.binomtest(outside, len(drawn), 2 * stats.norm.sf(start)).pvalue > 1e-3
    tail = ziggurat._settle(random(2), np.resize([5.0, -5.0], 1_000_000), np.zeros(1_000_000, np.int64))
    assert stats.kstest(stats.norm.sf(np.abs(tail)) / stats.norm.sf(start), "uniform").pvalue > 1e-3
    assert (tail > 0).mean() == 0.5
    assert np.abs(tail).max() > 6.2  # where single precision has nothing


@pytest.mark.parametrize("layer", [1, 500, 1023])
def test_rims_follow_the_curve(layer):
    """What lies below the curve is kept, and nothing else."""
    inner, outer = ziggurat._EDGES[layer + 1], ziggurat._EDGES[layer]
    low, high = ziggurat._HEIGHTS[layer], ziggurat._HEIGHTS[layer + 1]
    source = random(3)
    start = inner + (outer - inner) * source.uniform(200_000)
    kept = ziggurat._settle(source, start, np.full(200_000, layer)) == start
    expected = (np.exp(-0.5 * start**2) - low) / (high - low)
    assert abs(kept.sum() - expected.sum()) < 4 * (expected * (1 - expected)).sum() ** 0.5
