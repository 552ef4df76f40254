"""The map of collapse averages over seeds and nothing else."""

import contextlib
import io
import json
from importlib.resources import files

import pandas as pd
import pytest
import torch

from erode.benchmark.collapse import collapse_figure, sizes_of
from erode.benchmark.figures import draw_figures
from erode.benchmark.grid import read_grid
from erode.cli import main
from erode.files import write_json

torch.set_num_threads(1)

GRID = files("erode.configs") / "benchmark" / "collapse.yaml"


@pytest.fixture
def cells(tmp_path):
    """Makes results of cells, each (data, ε, parameters, lesion Dice lost), and the settings in their folders."""

    def make(*given, fractions=(0.1,)):
        rows = []
        for fine in fractions:
            for data, epsilon, size, lost in given:
                axes = {"data": data, "fine": str(fine), "net": str(size), "eps": str(epsilon)}
                settings = {
                    "data": {"pixels": data, "fine_fraction": fine}, "epsilon": epsilon, "steps": 3,
                    "model": {"network": "UNet", "parameters": size, "layers": str(size), "initial weights": str(size),
                              "loss": "dice"},
                }  # fmt: skip
                write_json(tmp_path / "cells" / "_".join(axes.values()) / "settings.json", settings)
                for seed in (0, 1):
                    for method, guarantee, promise, below in (
                        ("retain_view", "exact", 0.0, 0.0), ("gradient_clipping", "certified", epsilon, lost),
                    ):  # fmt: skip
                        rows.append(
                            {
                                **axes, "method": method, "title": method, "seed": seed, "guarantee": guarantee,
                                "epsilon_certified": promise, "delta_certified": 1e-7, "parameters": size,
                                "dice_lesion": 0.8 + 0.1 * seed - below - fine / 10,
                            }
                        )  # fmt: skip
        return pd.DataFrame(rows), tmp_path

    return make


def panels(figure):
    """By title: what is written in the squares, and the labels of ε and sizes."""
    axes = [axis for axis in figure.axes if axis.get_title()]
    return {
        axis.get_title(): (
            [text.get_text() for text in axis.texts],
            [label.get_text() for label in axis.get_xticklabels()],
            [label.get_text() for label in axis.get_yticklabels()],
        )
        for axis in axes
    }


def test_each_data_set_and_fraction_has_its_panel_and_exact_rows_of_its_own(cells):
    given = [("a", 1.0, 1000, 0.1), ("a", 8.0, 1000, 0.0), ("b", 1.0, 1000, 0.3), ("b", 8.0, 1000, 0.2)]
    found = panels(collapse_figure(*cells(*given, fractions=(0.1, 0.5))))
    assert found.keys() == {f"{data}, {fine}, 1000\ngradient_clipping" for data in "ab" for fine in (0.1, 0.5)}
    assert found["a, 0.5, 1000\ngradient_clipping"] == (["+0.100", "+0.000"], ["1", "8"], ["1,000"])
    assert found["b, 0.1, 1000\ngradient_clipping"] == (["+0.300", "+0.200"], ["1", "8"], ["1,000"])


def test_a_map_has_a_square_for_each_epsilon_and_size_and_leaves_out_what_was_not_run(cells):
    given = [("a", 1.0, 1000, 0.1), ("a", 8.0, 1000, 0.0), ("a", 8.0, 9000, 0.05)]
    ((texts, epsilons, sizes),) = panels(collapse_figure(*cells(*given))).values()
    assert (texts, epsilons, sizes) == (["+0.100", "+0.000", "no result", "+0.050"], ["1", "8"], ["1,000", "9,000"])


def test_no_map_of_one_epsilon_and_one_size_or_without_exact_rows(cells):
    """Three classes instead of two make other data, and are no other size."""
    assert collapse_figure(*cells(("binary", 1.0, 1_625_737, 0.1), ("three", 1.0, 1_626_072, 0.1))) is None
    assert collapse_figure(*cells(("a", 1.0, 1_625_737, 0.1), ("a", 1.0, 1_626_072, 0.1))) is None
    results, out = cells(("a", 1.0, 1000, 0.1), ("a", 8.0, 1000, 0.1))
    assert collapse_figure(results[results["method"] != "retain_view"], out) is None
    assert collapse_figure(pd.DataFrame(), out) is None


def test_a_map_of_results_that_are_no_longer_there_is_taken_away(cells):
    results, out = cells(("a", 1.0, 1000, 0.1), ("a", 8.0, 1000, 0.1))
    assert draw_figures(results, out) == [out / "collapse.png"]
    assert draw_figures(results[results["eps"] == "1.0"], out) == []
    assert not (out / "collapse.png").exists()


def test_sizes_within_a_tenth_are_one():
    assert sizes_of([1000, 1099, 1101]) == {1000: 1000, 1099: 1000, 1101: 1101}


def test_the_shipped_grid_draws_its_map(tmp_path):
    """All of it but length, size and half of its values."""
    assert len(read_grid(GRID)) == 4 * 3
    small = {"size": 32, "train_images": 16, "val_images": 6, "test_images": 6, "batch_size": 4}
    base = {"steps": 12, "seeds": [0], "accelerator": "cpu", "data": {"init_args": small}}
    base |= {"methods": ["coarse", "retain_view", "gradient_clipping"], "model": {"init_args": {"bootstrap": 10}}}
    tiny = {
        name: {"model": {"init_args": {"network": {"init_args": {"channels": channels, "strides": [2]}}}}}
        for name, channels in (("52k", [4, 8]), ("8M", [8, 16]))
    }
    axes = {"network": {**tiny, "1.6M": None}, "epsilon": {"1": None, "8": None}}
    with contextlib.redirect_stdout(io.StringIO()):
        main(["benchmark", str(GRID), "--out", str(tmp_path), "--patch", json.dumps({"base": base, "axes": axes})])
    assert (tmp_path / "collapse.png").stat().st_size > 10_000
    results = pd.read_csv(tmp_path / "results.csv", dtype={"network": str, "epsilon": str})
    assert set(results["epsilon_certified"].dropna()) == {0.0, 0.1, 100.0}
    ((texts, epsilons, sizes),) = panels(collapse_figure(results, tmp_path)).values()
    assert len(texts) == 4
    assert all(texts)
    assert (epsilons, len(sizes)) == (["0.1", "100"], 2)
