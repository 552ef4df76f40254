"""The dot plots hold every method on its line, and every bar within its axis."""

import numpy as np
import pandas as pd
import pytest

from erode.benchmark.dots import ALONE, BARS, KINDS, NO_BARS, SPREAD, interval, kind_of, leakage_figure

PROMISES = {
    "coarse": np.nan, "scrub": "approximate", "retain_view": "exact", "clipping": "certified", "noise": "certified",
}  # fmt: skip


@pytest.fixture
def results():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "data": data, "method": method, "title": "control: noise" if method == "noise" else method.upper(),
            "seed": seed, "guarantee": promise, "dice_lesion": 0.9 + 0.01 * rng.normal(),
            "leakage": 0.01 * rng.random() if data != "isic" else np.nan,
        }
        for data in ("binary", "three", "isic") for method, promise in PROMISES.items() for seed in (0, 1, 2)
    )  # fmt: skip


def points(axis):
    """Position and colour of the marks of means, by line."""
    return {
        int(line.get_ydata()[0]): (line.get_xdata()[0], line.get_color())
        for line in axis.lines
        if line.get_marker() in "sDo^"
    }


def shown(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def test_cells_with_artefact_masks_have_two_plots_with_the_same_lines_in_the_order_of_guarantees(results):
    axes = shown(leakage_figure(results))
    assert [axis.get_title(loc="left") for axis in axes] == ["binary", "", "three", ""]
    lines = [label.get_text() for label in axes[0].get_yticklabels()]
    assert lines == ["COARSE", "control: noise", "SCRUB", "RETAIN_VIEW", "CLIPPING"]
    colours = [KINDS[kind] for kind in ("control", "control", "approximate", "exact", "certified")]
    for axis in axes:
        assert [points(axis)[line][1] for line in range(5)] == colours
    three = results[(results["data"] == "three") & (results["method"] == "scrub")]
    assert points(axes[2])[2][0] == pytest.approx(three["dice_lesion"].mean())
    assert points(axes[3])[2][0] == pytest.approx(three["leakage"].mean())


def test_failures_stay_in_sight_and_no_bar_leaves_its_axis(results):
    failed = (results["method"] == "clipping") & (results["data"] == "three")
    results.loc[failed, ["dice_lesion", "leakage"]] = [(0.05, 1.0), (0.7, 0.0), (0.1, 1.0)]
    axes = shown(leakage_figure(results))
    for axis in axes:
        low, high = axis.get_xlim()
        assert len(points(axis)) == 5
        assert all(low <= x <= high for line in axis.lines for x in line.get_xdata())
    assert [line.get_marker() for line in axes[2].lines].count(">") == 1  # its interval goes on
    assert all("<" not in line.get_marker() for axis in axes for line in axis.lines)


def test_a_method_that_a_cell_lacks_keeps_its_line_and_says_so(results):
    lost = (results["method"] == "scrub") & (results["data"] == "three")
    results.loc[(results["method"] == "coarse") & (results["data"] == "binary"), "leakage"] = np.nan
    axes = shown(leakage_figure(results[~lost]))
    assert [[text.get_text() for text in axis.texts] for axis in axes] == [[], ["undefined"], ["no row"], ["no row"]]
    assert points(axes[2]).keys() == {0, 1, 3, 4}


def test_nothing_is_drawn_without_artefact_masks(results):
    assert leakage_figure(results[results["data"] == "isic"]) is None
    assert leakage_figure(pd.DataFrame()) is None
    assert len(shown(leakage_figure(results[results["data"] != "three"]))) == 2


def test_axes_say_what_they_measure(results):
    assert {axis.get_xlabel().split("\n")[0] for axis in shown(leakage_figure(results))} == {
        "lesion Dice [0 to 1]", "leakage [share of artefact pixels]",
    }  # fmt: skip


def bars(figure):
    return sum(bool(np.ptp(line.get_xdata())) for axis in shown(figure) for line in axis.lines)


def test_the_note_promises_bars_only_where_some_are_drawn(results):
    def note(figure):
        return " ".join(figure.get_supxlabel().split())

    every = leakage_figure(results)
    assert (note(every), bars(every)) == (BARS + SPREAD, 2 * 2 * 5)
    assert note(leakage_figure(results.assign(part="val"))) == "Val part. " + BARS + SPREAD
    one_seed = leakage_figure(results[results["seed"] == 0])
    assert (note(one_seed), bars(one_seed)) == (NO_BARS + SPREAD, 0)
    failed = (results["method"] == "scrub") & (results["seed"] > 0)
    some = leakage_figure(results[~failed])
    assert (note(some), bars(some)) == (BARS + ALONE + SPREAD, 2 * 2 * 4)
    undefined = results.assign(leakage=results["leakage"].where(results["seed"] == 0))
    undefined["dice_lesion"] = undefined["dice_lesion"].where(results["seed"] == 0)  # three seeds, one that tells
    assert note(leakage_figure(undefined)) == NO_BARS + SPREAD


def test_of_runs_that_promise_differently_the_least_counts():
    runs = pd.DataFrame({"guarantee": ["exact", "exact"], "title": "PCMU"})
    assert kind_of(runs) == "exact"
    assert kind_of(runs.assign(guarantee=["exact", "approximate"])) == "approximate"
    assert kind_of(runs.assign(guarantee=np.nan)) == "control"


def test_an_interval_counts_only_the_runs_that_are_defined():
    assert interval(pd.Series([0.4, 0.6, np.nan])) == interval(pd.Series([0.4, 0.6]))
    assert interval(pd.Series([0.4])) == (0.4, 0.0)
    mean, half = interval(pd.Series([0.4, 0.5, 0.6]))
    assert (mean, half) == (pytest.approx(0.5), pytest.approx(4.3027 * 0.1 / np.sqrt(3), rel=1e-4))  # t(2), 97.5 %
