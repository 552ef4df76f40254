from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.datamodules.errors import DataError
from erode.datamodules.parts.grouped_split import grouped_split

CASES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=60, max_size=200)


@given(CASES, st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_groups_never_straddle_and_seeds_decide(cases, seed):
    groups = [f"patient {group}" for group, _ in cases]
    strata = [stratum for _, stratum in cases]
    try:
        parts = grouped_split(groups, strata, seed=seed)
    except DataError:
        assert len(set(groups)) < 6  # few groups of very unlike size may leave a part without one
        return
    assert len({*zip(groups, parts, strict=True)}) == len(set(groups))
    assert parts == grouped_split(groups, strata, seed=seed)


@given(st.lists(st.integers(0, 3), min_size=40, max_size=300), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_single_cases_meet_the_fractions_in_every_stratum(strata, seed):
    fractions = {"train": 0.6, "val": 0.15, "test": 0.25}
    parts = grouped_split([""] * len(strata), strata, seed=seed)
    count = Counter(zip(strata, parts, strict=True))
    for stratum, size in Counter(strata).items():
        for part, fraction in fractions.items():
            assert abs(count[stratum, part] - fraction * size) <= 2
    for part, fraction in fractions.items():
        assert abs(parts.count(part) - fraction * len(parts)) <= 3


def test_other_seeds_give_other_parts():
    draws = {tuple(grouped_split([""] * 50, [0] * 50, seed=seed)) for seed in range(5)}
    assert len(draws) == 5


def test_zero_fractions_stay_empty():
    parts = grouped_split([""] * 10, [0] * 10, (0.5, 0.0, 0.5))
    assert Counter(parts) == {"train": 5, "test": 5}


def test_impossible_divisions_are_refused():
    with pytest.raises(DataError, match=r"2 cases in 1 groups leave the part .* empty .* raise its fraction"):
        grouped_split(["a", "a"], [0, 0])
    with pytest.raises(ValueError, match="sum to 1"):
        grouped_split(["a"], [0], (0.5, 0.5, 0.5))
