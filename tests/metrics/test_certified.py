"""From certificate to metric: exact optimum against random search, closed form, and the counterexample of §7.3."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.metrics import (
    GlobalSpuriousInformation,
    SliceCounts,
    certified_box,
    certified_interval,
    information_gap_bound,
    information_range,
    table_information,
)


def random_masses(tables, columns, generator):
    """Joint masses a[s, y] of one class and P(S, Y) ≥ a, with empty cells now and then."""
    a = torch.rand(tables, 2, columns, generator=generator, dtype=torch.float64) ** 3
    a[torch.rand(tables, 2, columns, generator=generator) < 0.1] = 0
    rest = torch.rand(tables, 2, columns, generator=generator, dtype=torch.float64) ** 3 + 1e-9
    total = (a + rest).sum((1, 2), keepdim=True)
    return a / total, (a + rest) / total


@pytest.mark.parametrize("columns", [2, 3])
def test_no_table_of_200_000_leaves_the_range_and_some_come_near_its_ends(columns):
    generator = torch.Generator().manual_seed(columns)
    boxes, draws = 100, 1000
    masses, totals = random_masses(boxes, columns, generator)
    for i in range(boxes):
        epsilon, delta = 3 * torch.rand(2, generator=generator, dtype=torch.float64).pow(2)
        low, high = certified_box(masses[i], totals[i], float(epsilon), float(delta) ** 4 / 100)
        least, most = information_range(low, high)
        draw = torch.rand(draws, 2, columns, generator=generator, dtype=torch.float64)
        draw[::2] = draw[::2].round()  # corners
        information = table_information(low + (high - low) * draw)
        assert least - 1e-12 <= float(information.min())
        assert float(information.max()) <= most + 1e-12
        assert float(information.max()) >= 0.95 * most  # corners attain it; few draws miss them


def test_minimum_is_attained_where_it_is_not_zero():
    """Descent by coordinates, from many starts, comes down to the stated minimum and no further."""
    generator = torch.Generator().manual_seed(0)
    positive = 0
    for masses, totals in zip(*random_masses(24, 3, generator), strict=True):
        low, high = certified_box(masses, totals, 0.2, 1e-3)
        least, _ = information_range(low, high)
        table = low + (high - low) * torch.rand(32, 2, 3, generator=generator, dtype=torch.float64)
        grid = torch.linspace(0, 1, 41, dtype=torch.float64)
        for _, (s, y) in itertools.product(range(8), itertools.product(range(2), range(3))):
            tried = table.repeat(41, 1, 1, 1)
            tried[:, :, s, y] = (low[s, y] + (high[s, y] - low[s, y]) * grid)[:, None]
            best = table_information(tried).argmin(0)
            table = tried[best, torch.arange(32)]
        found = float(table_information(table).min())
        assert least <= found + 1e-12
        assert found <= least + 5e-4
        positive += least > 1e-6
    assert positive > 5


@given(seed=st.integers(0, 999), epsilon=st.floats(0, 5), delta=st.floats(0, 0.2))
@settings(deadline=None, max_examples=40)
def test_reference_within_the_certificate_lies_in_the_box_and_the_box_is_symmetric(seed, epsilon, delta):
    """Draw b that satisfies all four inequalities (event and complement, both ways): it must be in the box."""
    generator = torch.Generator().manual_seed(seed)
    a, pi = (x[0] for x in random_masses(1, 2, generator))
    b = pi * torch.rand(4000, 2, 2, generator=generator, dtype=torch.float64)
    grow = math.exp(epsilon)
    allowed = (b <= grow * a + delta * pi) & (a <= grow * b + delta * pi)
    allowed &= (pi - b <= grow * (pi - a) + delta * pi) & (pi - a <= grow * (pi - b) + delta * pi)
    low, high = certified_box(a, pi, epsilon, delta)
    inside = (b >= low) & (b <= high)
    edge = torch.minimum((b - low).abs(), (b - high).abs()) < 1e-12
    assert bool((inside == allowed)[~edge].all())
    assert bool((low <= a + 1e-15).all() & (a <= high + 1e-15).all())


@pytest.mark.parametrize("delta", [0.0, 1e-7, 1e-3, 0.05, 1 / math.e])
def test_closed_form_is_never_violated(delta):
    """2·10⁵ tables, each against the two ends of the published box (theory §7.3), which is wider than ours."""
    generator = torch.Generator().manual_seed(int(delta * 1e7))
    a, pi = random_masses(200_000, 2, generator)
    epsilon = 4 * torch.rand(len(a), 1, 1, generator=generator, dtype=torch.float64) ** 2
    low, high = ((a - delta * pi) / epsilon.exp()).clamp(min=0), epsilon.exp() * a + delta * pi
    eye = torch.eye(2, dtype=torch.bool)
    ends = [torch.where(eye, high, low), torch.where(eye, low, high)]  # most positively, most negatively associated
    here, there = table_information(a), [table_information(end) for end in ends]
    sign = [(end[:, 0, 0] * end[:, 1, 1] - end[:, 0, 1] * end[:, 1, 0]).sign() for end in ends]
    least = torch.where(sign[1] > 0, there[1], torch.where(sign[0] < 0, there[0], 0.0))
    worst = torch.maximum(torch.maximum(*there) - here, here - least)
    rows = zip(here.tolist(), a.sum((1, 2)).tolist(), epsilon.flatten().tolist(), strict=True)
    bound = torch.tensor([information_gap_bound(f, m, e, delta) for f, m, e in rows], dtype=torch.float64)
    assert float((worst - bound).max()) <= 1e-12


def counts_of(clean, artefact):
    """P(Y=1)=.3, found entirely and free of artefacts; P(S=1|Y=0)=.5; rates of firing on background."""
    table = torch.tensor([[[35 * (1 - clean), 35 * clean], [0, 30]], [[35 * (1 - artefact), 35 * artefact], [0, 0]]])
    return (table * 1000).round().long()


def test_a_certificate_given_y_alone_would_not_bound_it():
    """Theory §7.3: both models fire on 20 % of the background, and score .0957 and .2752 nats."""
    reference, leaning = counts_of(0.2, 0.2), counts_of(0.0, 0.4)
    assert torch.equal(reference.sum(0), leaning.sum(0))  # indistinguishable given Y: (0, 0)-certified
    scores = [float(table_information(table[..., 1] / table.sum())) for table in (reference, leaning)]
    assert scores == pytest.approx([0.0957, 0.2752], abs=5e-5)
    # Given (S, Y), no ε alone certifies 0 % against 20 %; δ = .2 does, and the interval then reaches the other's score.
    masses, others = (table.double() / table.sum() for table in (leaning, reference))
    for epsilon, delta, certified in ((5.0, 0.0, False), (0.0, 0.199, False), (0.0, 0.2 + 1e-9, True)):
        low, high = certified_box(masses, masses.sum(2, keepdim=True), epsilon, delta)
        assert bool(((low <= others) & (others <= high)).all()) == certified
    found = certified_interval(leaning, int(leaning.sum()), 0.0, 0.2 + 1e-9)
    assert found.low <= scores[0] <= scores[1] <= found.high
    exact = certified_interval(leaning, int(leaning.sum()), 0.0, 0.0)
    assert exact.low == pytest.approx(scores[1]) == exact.high


def test_interval_closes_on_the_metric_itself():
    """At (0, 0) the interval is the pooled S_global of the same predictions, three classes, unknown artefacts."""
    generator = torch.Generator().manual_seed(0)
    pred, mask = (torch.randint(3, (6, 8, 8), generator=generator) for _ in range(2))
    artefact = torch.randint(2, (6, 8, 8), generator=generator, dtype=torch.uint8)
    artefact[0, :4], artefact[1] = 255, 255
    counts, metric = SliceCounts(3), GlobalSpuriousInformation(3)
    counts.update(pred, mask, artefact)
    metric.update(pred, mask, artefact)
    value = float(metric.compute())
    table, images = counts.compute().values()
    point = certified_interval(table, int(images), 0.0, 0.0)
    assert (point.low, point.high) == pytest.approx((value, value), abs=1e-12)
    torch.testing.assert_close(point.per_class[:, 0], metric.result().per_class)
    assert math.isnan(point.bound)  # proved for binary Y only
    widths = [certified_interval(table, int(images), e, 0.0) for e in (0.0, 0.1, 1.0, 8.0, 1000.0)]
    ends = [(found.low, found.high) for found in widths]
    assert all(b[0] - 1e-12 <= a[0] <= a[1] <= b[1] + 1e-12 for a, b in itertools.pairwise(ends))


def test_interval_lies_within_the_closed_form():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        counts = torch.randint(1, 500, (2, 2, 2), generator=generator)
        found = certified_interval(counts, 7, 0.5, 1e-6)
        value = float(table_information(counts[..., 1])) / 7
        assert value - found.bound <= found.low <= value <= found.high <= value + found.bound


def test_values_that_promise_nothing_are_refused():
    counts = torch.ones(2, 2, 2).long()
    with pytest.raises(ValueError, match="epsilon >= 0"):
        certified_interval(counts, 1, -0.1, 0.0)
    with pytest.raises(ValueError, match="count with SliceCounts"):
        certified_interval(torch.zeros(2, 2, 2).long(), 1, 0.1, 0.0)
    with pytest.raises(ValueError, match="1/e"):
        information_gap_bound(0.1, 0.1, 0.1, 0.5)
    with pytest.raises(ValueError, match="low <= high"):
        information_range(torch.ones(2, 2), torch.zeros(2, 2))
