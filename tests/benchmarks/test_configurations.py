"""Configurations of the benchmarks are what their first lines tell people to type: each parses and builds."""

import contextlib
import io
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from erode.benchmark.grid import read_grid
from erode.cli import main

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TYPED = {
    path.stem: command[1]
    for path in sorted(BENCHMARKS.glob("*.yaml"))
    if (command := re.search(rf"`erode (\w+) (?:--config )?benchmarks/{path.name}", path.read_text(encoding="utf-8")))
}


def test_every_configuration_says_how_to_run_it():
    others = {path.stem for path in BENCHMARKS.glob("*.yaml")} - TYPED.keys()
    assert others == {"audit"}  # docs/audit.md has its commands
    assert set(TYPED.values()) == {"benchmark", "classify", "compare", "ladder", "traps"}


@pytest.mark.parametrize("name", [name for name, command in TYPED.items() if command != "benchmark"])
def test_it_parses(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["erode"])
    with pytest.raises(SystemExit) as stop:
        main([TYPED[name], "--config", str(BENCHMARKS / f"{name}.yaml"), "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    whole = yaml.safe_load(output.out)
    assert whole["seeds"] == list(range(len(whole["seeds"])))
    assert len(whole["seeds"]) >= 3


@pytest.mark.parametrize("name", [name for name, command in TYPED.items() if command == "benchmark"])
def test_a_grid_builds_all_its_cells(name):
    cells = read_grid(BENCHMARKS / f"{name}.yaml")
    assert all(cell.seeds == [0, 1, 2] for cell in cells)


@pytest.mark.parametrize("name", ["ladder_saab", "ladder_synthetic"])
def test_labels_of_a_ladder_are_measured_as_configured(name, tmp_path):
    """Without seeds nothing is trained; the closed form lies within the interval on every rung."""
    with contextlib.redirect_stdout(io.StringIO()):
        main(["ladder", "--config", str(BENCHMARKS / f"{name}.yaml"), "--seeds", "[]", "--out", str(tmp_path / "out")])
    rungs = pd.read_csv(tmp_path / "out" / "ladder.csv")
    settings = yaml.safe_load((BENCHMARKS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert {f"window-{r}" for r in settings["windows"]} <= {*rungs["rung"]}
    assert (rungs["information_low"] <= rungs["closed_form"] + 1e-12).all()
    assert (rungs["closed_form"] <= rungs["information_high"] + 1e-12).all()
    assert rungs["information"].idxmax() not in (0, len(rungs) - 1)  # it rises before it falls
