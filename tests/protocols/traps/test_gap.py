"""Shares of a gap, worked by hand, and no share where there is no gap."""

import numpy as np
import pytest
from scipy import stats

from erode.protocols.traps.gap import Gap, closed, closed_interval, gap_of
from erode.protocols.traps.report import markdown_of, print_traps, table_of


def rows_of(**values):
    return [
        {"method": method, "title": method.title(), "seed": seed, "metrics": {"auroc": value, "dice_lesion": 0.5}}
        for method, runs in values.items()
        for seed, value in enumerate(runs)
    ]


ROWS = rows_of(coarse=[0.2, 0.4], oracle=[0.8, 0.9], half=[0.5, 0.65], below=[0.1, 0.0], above=[1.0, 1.0])


def test_shares_are_of_means_over_seeds():
    gap = gap_of(ROWS, "auroc")
    assert (gap.low, gap.high) == pytest.approx((0.3, 0.85))
    assert gap.spread == pytest.approx(0.02**0.5)  # of 0.2 and 0.4: the larger one
    assert gap.exists
    assert closed(ROWS, "half", "auroc") == pytest.approx((0.575 - 0.3) / 0.55)
    assert closed(ROWS, "below", "auroc") == pytest.approx(-0.25 / 0.55)  # below the coarse model: negative
    assert closed(ROWS, "above", "auroc") == pytest.approx(0.7 / 0.55)  # above the oracle: beyond 1
    assert closed(ROWS, "coarse", "auroc") is closed(ROWS, "oracle", "auroc") is None


@pytest.mark.parametrize(
    ("coarse", "oracle"),
    [
        ([0.5, 0.6], [0.58, 0.58]),  # .03 above, and the coarse model spreads by .07
        ([0.5, 0.5], [0.5, 0.5]),  # nothing between them
        ([0.7, 0.7], [0.6, 0.6]),  # the oracle below
    ],
)
def test_without_a_gap_there_is_no_share(coarse, oracle):
    rows = rows_of(coarse=coarse, oracle=oracle, other=[0.9, 0.9])
    assert not gap_of(rows, "auroc").exists
    assert closed(rows, "other", "auroc") is None
    assert table_of(rows)[-1] == ["Other", "0.900 ± 0.000", "–", "0.500 ± 0.000"]
    assert "AUROC: no gap, coarse" in markdown_of(rows)


def test_what_is_absent_or_undefined_has_no_share():
    assert gap_of(rows_of(coarse=[0.5], other=[0.6]), "auroc") is None
    assert gap_of(rows_of(coarse=[None], oracle=[0.9]), "auroc") is None
    assert gap_of(ROWS, "auroc_robust") is None
    assert closed(rows_of(coarse=[0.5], oracle=[0.9], other=[None]), "other", "auroc") is None
    assert "absent or undefined" in markdown_of(rows_of(coarse=[0.5], other=[0.6]))


def test_one_seed_has_no_spread_and_so_no_share():
    rows = rows_of(coarse=[0.5], oracle=[0.9], other=[0.7])
    assert Gap(0.5, 0.9, 0.0).exists
    assert not gap_of(rows, "auroc").exists
    assert table_of(rows)[-1][1:3] == ["0.700", "–"]
    assert "one seed, so no spread" in markdown_of(rows)


def test_scores_that_no_row_has_take_no_column():
    head = table_of(ROWS)[0]
    assert head == ["method", "AUROC", "gap closed", "lesion Dice"]


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("shared", [0.0, 0.08], ids=["apart", "of one seed"])
def test_the_interval_of_a_share_covers_it(seeds, shared):
    """Against the truth: seeds that scatter, a method that closes half of the gap on average."""
    generator = np.random.Generator(np.random.PCG64(1))
    covered = []
    for _ in range(500):
        luck = generator.normal(0, shared, seeds)  # of the seed, for all three
        coarse, half, oracle = (level + luck + generator.normal(0, 0.08, seeds) for level in (0.3, 0.6, 0.9))
        rows = rows_of(coarse=coarse.tolist(), oracle=oracle.tolist(), half=half.tolist())
        low, high = closed_interval(rows, "half", "auroc")
        covered.append(low <= 0.5 <= high)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_the_interval_of_a_share_is_that_of_the_t_test():
    """At its ends the paired test has a p-value of 0.05."""
    generator = np.random.Generator(np.random.PCG64(2))
    coarse, half, oracle = (generator.normal(level, 0.1, 6) for level in (0.3, 0.5, 0.9))
    rows = rows_of(coarse=coarse.tolist(), oracle=oracle.tolist(), half=half.tolist())
    for end in closed_interval(rows, "half", "auroc"):
        assert stats.ttest_1samp(half - coarse - end * (oracle - coarse), 0).pvalue == pytest.approx(0.05)


def test_no_interval_where_there_is_none():
    few = rows_of(coarse=[0.2, 0.3], oracle=[0.8, 0.9], half=[0.5, 0.6])
    assert closed_interval(few, "half", "auroc") is None  # of two seeds
    unsure = rows_of(coarse=[0.0] * 5, oracle=[0.0] * 4 + [5.0], half=[0.5] * 5)
    assert closed_interval(unsure, "half", "auroc") is None  # one seed in five has a gap
    same = rows_of(coarse=[0.0] * 5, oracle=[1.0] * 5, half=[0.5] * 5)
    assert closed_interval(same, "half", "auroc") == (0.5, 0.5)
    assert table_of(same)[-1][2] == "50% [50%, 50%]"


@pytest.mark.parametrize("part", ["test", "val"])
def test_page_and_terminal_name_the_part_that_was_evaluated_on(part, capsys):
    print_traps(ROWS, "Data", part)
    for text in (capsys.readouterr().out, markdown_of(ROWS, part)):
        assert f"{part.capitalize()} part, mean ± sd over seeds." in text
