from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from erode.datamodules import Case, DataError, TrapSplit
from erode.datamodules.parts.trap_optimum import most_contrary

FRACTIONS = (0.6, 0.15, 0.25)
ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.integers(0, 1)), min_size=30, max_size=150)


def varied(rows):
    return all(len(set(column)) == 2 for column in zip(*rows, strict=True))


def cases_of(rows, groups=None):
    return [
        Case(f"{i:03d}", int(y), "train", {"ink": a, "ruler": b}, group="" if groups is None else f"g{groups[i]}")
        for i, (y, a, b) in enumerate(rows)
    ]


def divide(cases, bias, seed=0, **options):
    return TrapSplit(bias, **options).divide(cases, [case.label == 1 for case in cases], FRACTIONS, seed)


def difference(cases, name):
    """P(artefact | positive) - P(artefact | negative)."""
    rate = [np.mean([case.flags[name] for case in cases if case.label == label]) for label in (0, 1)]
    return rate[1] - rate[0]


def correlated(n=800, seed=0):
    """Labels and three flags that come together, as ink and rulers do."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.3
    ink = rng.random(n) < 0.3 + 0.1 * labels
    ruler = rng.random(n) < 0.2 + 0.5 * ink
    hair = rng.random(n) < 0.6 - 0.1 * labels
    return labels, np.column_stack([ink, ruler, hair]).astype(int)


def contrast(labels, flags, shares, fraction):
    """What the optimum maximises, from its definition."""
    sigma = flags.std(axis=0)
    both = []
    for weight in (shares, 1 - shares):
        rate = [weight[labels == y] @ flags[labels == y] / weight[labels == y].sum() for y in (0, 1)]
        both.append((rate[1] - rate[0]) / sigma)
    return float(np.abs(both[1] - both[0]).sum()), np.array(both)


@given(ROWS.filter(varied), st.floats(0, 1), st.integers(0, 9))
@settings(deadline=None, max_examples=12)
def test_parts_are_disjoint_whole_and_the_same_in_any_order(rows, bias, seed):
    groups = np.random.default_rng(seed).integers(0, len(rows) // 2, len(rows))
    cases = cases_of(rows, groups)
    parts = {case.id: case.part for case in divide(cases, bias, seed)}
    assert sorted(parts) == [case.id for case in cases]
    assert len({(case.group, parts[case.id]) for case in cases}) == len({case.group for case in cases})
    shuffled = [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]
    assert {case.id: case.part for case in divide(shuffled, bias, seed)} == parts


@given(ROWS.filter(varied), st.floats(0, 1), st.integers(0, 9))
@settings(deadline=None, max_examples=12)
def test_sizes_and_prevalence_are_those_asked_for(rows, bias, seed):
    cases = cases_of(rows)
    parts = divide(cases, bias, seed)
    count = Counter((case.part, case.label) for case in parts)
    for part, fraction in zip(("train", "val", "test"), FRACTIONS, strict=True):
        for label in (0, 1):
            wanted = fraction * sum(case.label == label for case in cases)
            assert abs(count[part, label] - wanted) <= 2


def test_bias_moves_every_part_linearly_from_the_whole_to_the_reversal():
    labels, flags = correlated()
    cases = [
        Case(f"{i:03d}", int(y), "train", dict(zip(("ink", "ruler", "hair"), map(int, row), strict=True)))
        for i, (y, row) in enumerate(zip(labels, flags, strict=True))
    ]
    divided = {bias: divide(cases, bias) for bias in (0, 0.5, 1)}
    for name in ("ink", "ruler", "hair"):
        seen = {
            bias: {p: difference([case for case in parts if case.part == p], name) for p in ("train", "val", "test")}
            for bias, parts in divided.items()
        }
        whole = difference(cases, name)
        assert all(abs(value - whole) < 0.06 for value in seen[0].values())
        sign = np.sign(whole)
        assert sign * seen[1]["train"] > sign * whole > 0 > sign * seen[1]["test"]
        assert sign * seen[1]["val"] > sign * whole
        for part, value in seen[0.5].items():
            assert value == pytest.approx((seen[0][part] + seen[1][part]) / 2, abs=0.08)


@pytest.mark.parametrize("fraction", [0.2, 0.4])
def test_no_direction_of_the_artefacts_gives_more_contrast(fraction):
    """The mixed-integer programme against one linear programme for each way the artefacts can point."""
    labels, flags = correlated(300, seed=3)
    shares = most_contrary(labels, flags, fraction)
    found, (test, rest) = contrast(labels, flags, shares, fraction)
    assert (test * rest <= 1e-9).all()
    number, sigma = [np.sum(~labels), np.sum(labels)], flags.std(axis=0)
    slope = flags.T * np.where(labels, 1 / number[1], -1 / number[0]) / sigma[:, None]
    whole = slope.sum(axis=1)
    best = -np.inf
    for signs in product((-1, 1), repeat=3):
        signed = np.array(signs)[:, None] * slope
        gain = -signed.sum(axis=0) * (1 / fraction + 1 / (1 - fraction))
        solution = linprog(
            -gain,
            A_ub=np.vstack([signed, signed]),
            b_ub=np.concatenate([np.zeros(3), np.array(signs) * whole]),
            A_eq=np.stack([~labels, labels]).astype(float),
            b_eq=fraction * np.array(number),
            bounds=(0, 1),
        )
        if solution.status == 0:
            best = max(best, -solution.fun + np.array(signs) @ whole / (1 - fraction))
    assert found == pytest.approx(best, rel=1e-6)


def test_one_artefact_has_a_closed_form():
    """Positives without and negatives with the artefact go to test first."""
    labels = np.repeat([False, True], 50)
    flags = np.concatenate([np.arange(50) < 20, np.arange(50) < 30]).astype(int)[:, None]
    shares = most_contrary(labels, flags, 0.5)
    per_cell = {(y, s): set(shares[(labels == y) & (flags[:, 0] == s)].round(6)) for y in (0, 1) for s in (0, 1)}
    assert per_cell == {(0, 1): {1.0}, (0, 0): {round(5 / 30, 6)}, (1, 0): {1.0}, (1, 1): {round(5 / 30, 6)}}


def test_where_not_all_can_be_reversed_the_worst_violation_is_least():
    """Two flags that are one another's negation cannot both speak for the label."""
    rng = np.random.default_rng(0)
    labels, ink = rng.random(200) < 0.5, rng.random(200) < 0.5
    flags = np.column_stack([ink, ~ink]).astype(int)
    _, (test, rest) = contrast(labels, flags, most_contrary(labels, flags, 0.3), 0.3)
    assert np.sign(test[0]) == -np.sign(test[1]) == -np.sign(rest[0]) == np.sign(rest[1])


def test_images_without_flags_take_no_part():
    cases = cases_of([(i % 2, i % 3 == 0, i % 5 == 0) for i in range(60)])
    some = [*cases, Case("nobody looked", 1, "train"), Case("half", 0, "train", {"ink": 1})]
    assert {case.id for case in divide(some, 1.0)} == {case.id for case in cases}
    assert "half" in {case.id for case in divide(some, 1.0, artefacts=["ink"])}


def test_other_seeds_give_other_images_of_the_same_cells():
    rows = [(i % 2, int(i % 3 == 0), int(i % 5 == 0)) for i in range(120)]
    draws = [{case.id for case in divide(cases_of(rows), 0.3, seed) if case.part == "test"} for seed in range(4)]
    assert len({frozenset(draw) for draw in draws}) == 4


def test_impossible_traps_are_refused():
    cases = cases_of([(i % 2, i % 3 == 0, 0) for i in range(30)])
    with pytest.raises(ValueError, match="bias must lie between 0"):
        TrapSplit(1.5)
    with pytest.raises(DataError, match=r"ruler is the same in all images, .* leave it out"):
        divide(cases, 1.0)
    with pytest.raises(DataError, match="no image has the artefact flag 'tattoo': choose of ink, ruler"):
        divide(cases, 1.0, artefacts=["tattoo"])
    with pytest.raises(DataError, match="no image has artefact flags"):
        divide([Case("a", 1, "train")], 1.0)
    with pytest.raises(DataError, match="needs positive and negative images"):
        TrapSplit().divide(cases, [True] * 30, FRACTIONS, 0)
    with pytest.raises(DataError, match="set fractions"):
        TrapSplit().divide(cases, [True] * 30, None, 0)
    with pytest.raises(ValueError, match="needs a training and a test part"):
        TrapSplit().divide(cases, [True] * 30, (0.5, 0.5, 0.0), 0)
