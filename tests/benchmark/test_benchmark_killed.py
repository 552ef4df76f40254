"""Whenever a grid is killed, it ends in the results that it would have had, and what is done stays as it is."""

import contextlib
import io
import os
import random
import signal
import sys
import threading

import pandas as pd
import pytest
import torch
import yaml

from erode.benchmark import benchmark

torch.set_num_threads(1)

DATA = {"size": 32, "train_images": 16, "val_images": 6, "test_images": 6, "batch_size": 4, "fine_fraction": 0.25}
GRID = {
    "base": {
        "steps": 2,
        "seeds": [0],
        "methods": ["coarse", "staged", "rewind"],
        "validations": 1,
        "accelerator": "cpu",
        "model": {"class_path": "SegmentationModule", "init_args": {"bootstrap": 10}},
        "data": {"class_path": "SyntheticDermoscopy", "init_args": DATA},
    },
    "axes": {
        "task": {
            "binary": {"data": {"init_args": {"task": "binary"}}},
            "three classes": {"model": {"init_args": {"num_classes": 3}}},
        }
    },
}
PHASES = {
    "Experiment._run": "row",
    "write_results": "results",
    "write_tables": "tables",
    "draw_figures": "figures",
}
"""What a run is at, by the function that it is in; anything else, at the start or between rows, is 'between'."""
LOOKS = {"between": 20, "row": 40, "results": 30, "tables": 10, "figures": 19}
"""Of so many looks at files in a phase one is chosen: about those of a row, and all of those that come but once."""
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir")


def quietly(*arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        benchmark(*arguments)


def phase():
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None:
        if (name := frame.f_code.co_qualname) in PHASES:
            return PHASES[name]
        frame = frame.f_back
    return "between"


def run_until_killed(grid, out, patch, at, look, wait, log):
    """Run a grid that is killed before a certain look at its files in some phase, or so many seconds later."""
    looks = 0

    def kill():
        with log.open("a") as lines:
            lines.write(f"{phase()}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def count(event, arguments):
        nonlocal looks
        if event in CHANGES and str(arguments[0]).startswith(str(out)) and phase() == at:
            looks += 1
            if looks == look:
                threading.Timer(wait, kill).start() if wait else kill()

    sys.addaudithook(count)
    quietly(grid, out, patch)
    os._exit(0)  # a kill that comes too late is none


class Killer:
    """Runs grids that die, at moments of one random sequence."""

    def __init__(self, folder, forks):
        self.forks = forks
        self.random = random.Random(2)
        self.log = folder / "killed"

    def strike(self, grid, out, at, late=False, patch=None, lost="*"):
        """Let a run die before a random look at a file in this phase, or (late) up to 0.3 s after one.

        A run that was done before loses one of these rows, as if it had been killed in it, and is tried again.
        """
        while True:
            look, wait = self.random.randint(1, LOOKS[at]), self.random.uniform(0, 0.3) if late else 0
            process = self.forks.Process(target=run_until_killed, args=(grid, out, patch, at, look, wait, self.log))
            process.start()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                return
            assert process.exitcode == 0
            self.random.choice(rows_there(out, lost)).unlink()

    def struck(self):
        return self.log.read_text().split()


@pytest.fixture
def killer(tmp_path, forks):
    return Killer(tmp_path, forks)


def written(folder):
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID, sort_keys=False), encoding="utf-8")
    return path


def rows_there(out, name="*"):
    return sorted(out.glob(f"cells/*/rows/{name}-seed0.json"))


def curves(out):
    """What the monitor of each row wrote in its last run, but for the seconds."""
    logs = list(out.glob("cells/*/logs/*/version_*/spurious_information.csv"))
    logs.sort(key=lambda path: int(path.parent.name.removeprefix("version_")))
    return {path.parent.parent.relative_to(out): pd.read_csv(path).drop(columns="seconds").to_csv() for path in logs}


def test_killed_at_ten_random_moments_of_all_that_it_does_it_gives_the_same_results_file(killer, tmp_path):
    grid, whole, out = written(tmp_path), tmp_path / "whole", tmp_path / "run"
    quietly(grid, whole)
    for at in ("between", "row", "results", "tables", "figures"):  # the last two come once all rows are there
        for late in (False, True):
            killer.strike(grid, out, at, late)
    assert len(killer.struck()) == 10
    assert {*killer.struck()} == LOOKS.keys()
    quietly(grid, out)
    assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert curves(out) == curves(whole)
    assert len(curves(whole)) == 2 * 3


def certified(out):
    """All that a finished certified row is: its line, its file, its weights, certificate and record."""
    (row,) = rows_there(out, "gradient_clipping")
    (line,) = [line for line in (out / "results.csv").read_text().splitlines() if ",gradient_clipping," in line]
    weights = row.parents[1] / "weights" / row.stem
    return line, row.read_bytes(), {path.name: path.read_bytes() for path in weights.iterdir()}


def test_a_finished_certified_row_outlives_kills_to_the_byte_though_none_could_repeat_it(killer, tmp_path):
    grid, out = written(tmp_path), tmp_path / "run"
    patch = {"base": {"steps": 12, "validations": 0, "methods": ["coarse", "gradient_clipping"]}}
    patch["axes"] = {"task": {"binary": None}}
    quietly(grid, out, patch)
    before = certified(out)
    assert {"weights.safetensors", "certificate.json"} <= before[2].keys()
    patch["base"]["methods"].append("fine_tune")
    for at in ("row", "results", "figures"):
        killer.strike(grid, out, at, patch=patch, lost="fine_tune")
    quietly(grid, out, patch)
    assert killer.struck() == ["row", "results", "figures"]
    assert len(rows_there(out)) == 3
    assert certified(out) == before
    # Had it been computed anew, this would have told.
    rows_there(out, "gradient_clipping")[0].unlink()
    quietly(grid, out, patch)
    assert certified(out)[2]["weights.safetensors"] != before[2]["weights.safetensors"]
