"""Tables hold the means and deviations of the results, no more digits and no fewer rows."""

import numpy as np
import pandas as pd
import pytest

from erode.benchmark.tables import latex, markdown, promise_of, table_of


@pytest.fixture
def results():
    rows = [
        {
            "data": data, "method": method, "title": title, "seed": seed, "guarantee": guarantee,
            "epsilon_certified": epsilon, "delta_certified": 1e-7 if epsilon else np.nan, "gradient_evaluations": 600,
            "parameters": size, "dice_lesion": 0.5 + 0.1 * seed, "leakage": 0.1 if data == "a_b" else np.nan,
        }
        for data, size in (("a_b", 1000), ("c", 2000))
        for method, title, guarantee, epsilon in (
            ("coarse", "coarse & bad", np.nan, np.nan), ("retain_view", "exact", "exact", 0.0),
            ("gradient_clipping", "clipped", "certified", 1.0), ("scrub", "SCRUB", "approximate", np.nan),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def timings(results):
    return results[["data", "method", "seed"]].assign(seconds=2.0)


def test_each_cell_has_its_table_and_undefined_columns_are_left_out(results, timings):
    text = markdown(results, timings)
    first, second = text.split("### ")[1:]
    assert "leakage" in first
    assert "leakage" not in second
    assert "| clipped | (1, 1e-07) | 0.550 ± 0.071 | 0.100 ± 0.000 | 600 | 2 |" in first
    assert [line[1] for line in table_of(results[results["data"] == "c"], timings)[1:]] == [
        "–", "exact", "(1, 1e-07)", "none",
    ]  # fmt: skip


def test_a_method_that_lacks_a_seed_says_so(results, timings):
    text = markdown(results.drop(index=results.index[results["method"] == "scrub"][0]), timings)
    assert "| SCRUB (1 of 2 seeds) | none | 0.600 |" in text


def test_latex_escapes_what_latex_would_read(results, timings):
    text = latex(results, timings)
    assert r"coarse \& bad" in text
    assert r"($\varepsilon$, $\delta$)" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2


def test_no_rows_no_tables():
    assert markdown(pd.DataFrame(), pd.DataFrame()) == "no rows"


def test_a_method_that_failed_for_some_seeds_says_so(results, timings):
    lost = (results["method"] == "scrub") & (results["seed"] == 1)
    text = markdown(results[~lost], timings[~lost])
    assert text.count("| SCRUB (1 of 2 seeds) | none | 0.500 |") == 2


def test_of_runs_that_promise_differently_the_least_stands_in_the_table(results, timings):
    cell = results[results["data"] == "c"]

    def promises(method, **columns):
        runs = cell[cell["method"] == method].assign(**columns)
        return table_of(runs, timings)[1][1]

    assert promises("retain_view", guarantee=["exact", "approximate"]) == "none"
    assert promises("retain_view", guarantee=["approximate", "exact"]) == "none"
    weaker = {"epsilon_certified": [1.0, 2.0], "delta_certified": [1e-5, 1e-7]}
    assert promises("gradient_clipping", **weaker) == "(2, 1e-05)"
    mixed = {"guarantee": ["exact", "certified"], "epsilon_certified": [0.0, 1.0], "delta_certified": [0.0, 1e-7]}
    assert promises("gradient_clipping", **mixed) == "(1, 1e-07)"
    assert promise_of(cell[cell["method"] == "scrub"].assign(guarantee=["exact", np.nan])) is None


@pytest.mark.parametrize("part", ["test", "val"])
def test_tables_name_the_part_that_was_evaluated_on(results, timings, part):
    for text in (markdown(results.assign(part=part), timings), latex(results.assign(part=part), timings)):
        assert text.count(f"{part.capitalize()} part; seeds 0, 1; mean ± sample standard deviation") == 2
