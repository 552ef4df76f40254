"""One results file from one command, whatever happens on the way."""

import contextlib
import dataclasses
import io
import json
import shutil
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from erode.benchmark import benchmark
from erode.benchmark.grid import read_grid
from erode.benchmark.run import FailedRowsError
from erode.cli import main
from erode.comparison import Experiment
from erode.datamodules import SyntheticDermoscopy

torch.set_num_threads(1)

DATA = {"size": 32, "train_images": 16, "val_images": 6, "test_images": 6, "batch_size": 4, "fine_fraction": 0.25}
GRID = {
    "base": {
        "steps": 2,
        "seeds": [0, 1],
        "methods": ["coarse", "fine_tune", "retain_view"],
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


def quietly(*arguments, **options):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        benchmark(*arguments, **options)
    return printed.getvalue()


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(grid):
    out = grid.parent / "out"
    return out, quietly(grid, out)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


def test_every_row_stands_in_the_results_once_with_its_digest(finished):
    results = pd.read_csv(finished[0] / "results.csv")
    assert len(results) == 2 * 2 * 3
    assert results["configuration"].is_unique
    assert not results.duplicated(["task", "method", "seed"]).any()
    assert {"dice_lesion", "leakage", "s_global", "membership_auc", "gradient_evaluations"} <= {*results.columns}
    assert set(results["device"]) == {"cpu"}
    assert set(results["part"]) == {"test"}
    assert "seconds" not in results
    assert (pd.read_csv(finished[0] / "timings.csv")["seconds"] >= 0).all()
    assert json.loads((finished[0] / "failures.json").read_text()) == {}


def test_tables_and_figures_come_with_it(finished):
    out, printed = finished
    table = (out / "tables.md").read_text()
    assert table.count("### ") == 2
    assert "exact: retain view | exact |" in table
    assert "±" in table
    assert r"\toprule" in (out / "tables.tex").read_text()
    assert (out / "dice_leakage.png").stat().st_size > 10_000
    assert "results.csv" in printed


def test_a_cell_can_be_repeated_by_erode_compare_alone(finished, tmp_path):
    cell = finished[0] / "cells" / "binary"
    with contextlib.redirect_stdout(io.StringIO()):
        main(["compare", "--config", str(cell / "config.yaml"), "--out", str(tmp_path / "again"), "--seeds", "[0]"])
    for row in (tmp_path / "again" / "rows").iterdir():
        one, other = (json.loads((folder / "rows" / row.name).read_text()) for folder in (tmp_path / "again", cell))
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_what_is_done_is_not_done_again(grid, copy):
    before = {path: path.stat().st_mtime_ns for path in (copy / "cells").rglob("*") if path.is_file()}
    printed = quietly(grid, copy)
    assert "seed 0: " not in printed
    assert {path: path.stat().st_mtime_ns for path in (copy / "cells").rglob("*") if path.is_file()} == before


def test_a_grid_that_has_grown_computes_what_is_new(grid, copy):
    printed = quietly(grid, copy, {"base": {"methods": ["coarse", "fine_tune", "retain_view", "oracle"]}})
    assert printed.count("seed 0: ") == printed.count("seed 1: ") == 2
    assert set(pd.read_csv(copy / "results.csv")["method"]) == {"coarse", "fine_tune", "retain_view", "oracle"}


def test_results_of_other_settings_are_never_relabelled(grid, copy):
    before = (copy / "results.csv").read_bytes()
    with pytest.raises(ValueError, match="other settings"):
        quietly(grid, copy, {"base": {"steps": 3}})
    assert (copy / "results.csv").read_bytes() == before


def test_data_that_are_not_there_are_told_before_any_row_is_computed(tmp_path):
    absent = {"data": {"class_path": "ISICDataModule", "init_args": {"root": str(tmp_path / "absent")}}}
    base = {key: value for key, value in GRID["base"].items() if key != "data"}
    content = {"base": base, "axes": {"data": {"ours": {"data": GRID["base"]["data"]}, "ISIC": absent}}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    with pytest.raises(ValueError, match=r"ISIC: .*absent.*with null in --patch"):
        quietly(tmp_path / "grid.yaml", tmp_path / "out")
    assert not list(tmp_path.rglob("rows"))


def test_a_cell_that_changed_is_refused_before_any_row_of_another_is_computed(grid, copy):
    changed = {"three classes": {"steps": 3}}
    before = (copy / "results.csv").read_bytes()
    with pytest.raises(ValueError, match=r"three classes holds a comparison .*\(steps: 2 there, 3 asked for\)"):
        quietly(grid, copy, {"base": {"seeds": [0], "methods": ["coarse", "oracle"]}, "axes": {"task": changed}})
    assert (copy / "results.csv").read_bytes() == before
    assert not list((copy / "cells").rglob("oracle*"))


def test_a_finished_cell_is_refused_after_its_images_changed(grid, copy, monkeypatch):
    read = SyntheticDermoscopy.read

    def darker(self, case):
        arrays = read(self, case)
        return dataclasses.replace(arrays, image=arrays.image * 0.5)

    monkeypatch.setattr(SyntheticDermoscopy, "read", darker)
    with pytest.raises(ValueError, match=r"binary holds .*\(data, pixels: \w{8}… there, \w{8}… asked for\)"):
        quietly(grid, copy)


def test_a_finished_cell_is_refused_under_another_torch(grid, copy):
    path = copy / "cells" / "three classes" / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "torch": "1.0"}))
    with pytest.raises(ValueError, match=r"three classes holds .*\(torch: 1.0 there, "):
        quietly(grid, copy)
    quietly(grid, copy, {"axes": {"task": {"three classes": None}}})  # a part of the grid that is as it was


def test_numbers_of_another_evaluation_are_never_relabelled(grid, copy):
    with pytest.raises(ValueError, match="model, bootstrap: 10 there, 20 asked for"):
        quietly(grid, copy, {"base": {"model": {"init_args": {"bootstrap": 20}}}})


def test_what_changes_no_row_may_change_in_the_file(grid, copy):
    """The digests speak of the file as it is now."""
    before = pd.read_csv(copy / "results.csv")
    printed = quietly(grid, copy, {"base": {"data": {"init_args": {"cache": False}}}})
    after = pd.read_csv(copy / "results.csv")
    assert "seed 0: " not in printed
    assert (after["configuration"] != before["configuration"]).all()
    assert after.drop(columns="configuration").equals(before.drop(columns="configuration"))


def test_another_configuration_is_refused_where_settings_do_not_show_it(grid, copy):
    before = (copy / "results.csv").read_bytes()
    names = {"model": {"init_args": {"class_names": ["background", "naevus"]}}}
    patch = {"axes": {"task": {"binary": names, "three classes": None}}}
    with pytest.raises(ValueError, match=r"binary holds .* of another configuration \(model, init_args, class_names: "):
        quietly(grid, copy, patch)
    assert (copy / "results.csv").read_bytes() == before
    assert "naevus" not in (copy / "cells" / "binary" / "config.yaml").read_text()


def test_another_schedule_is_refused_though_its_class_is_the_same(tmp_path):
    path, out = tmp_path / "grid.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump({"base": {**GRID["base"], "methods": ["coarse"], "seeds": [0]}, "axes": {
        "decay": {name: {"model": {"init_args": {"num_classes": 3, "lr_scheduler": {
            "class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": gamma}
        }}}} for name, gamma in (("fast", 0.01), ("slow", 0.99))}
    }}), encoding="utf-8")  # fmt: skip
    assert "as in fast" not in quietly(path, out)
    gamma = {"model": {"init_args": {"lr_scheduler": {"init_args": {"gamma": 0.5}}}}}
    with pytest.raises(ValueError, match=r"slow holds .* other settings \(model, lr_scheduler, gamma: 0.99 there, 0.5"):
        quietly(path, out, {"axes": {"decay": {"slow": gamma}}})


def test_defaults_may_be_spelt_out(grid, copy):
    data = {"class_path": "erode.datamodules.SyntheticDermoscopy", "init_args": {"prevalence": 0.5}}
    assert "seed 0: " not in quietly(grid, copy, {"base": {"precision": "32-true", "data": data}})


def test_rows_that_start_from_one_that_failed_do_not_end_the_others(grid, tmp_path, monkeypatch):
    run = Experiment._run

    def without_staged(self, name, seed):
        if name == "staged":
            raise RuntimeError("no memory left")
        return run(self, name, seed)

    monkeypatch.setattr(Experiment, "_run", without_staged)
    patch = {"base": {"methods": ["staged", "rewind", "oracle"], "seeds": [0]}}
    patch["axes"] = {"task": {"three classes": None}}
    with pytest.raises(FailedRowsError, match="2 rows failed"):
        quietly(grid, tmp_path / "out", patch)
    assert set(pd.read_csv(tmp_path / "out" / "results.csv")["method"]) == {"oracle"}


def test_a_row_that_fails_does_not_end_the_others(grid, copy):
    """Ten noisy steps do not fit into two."""
    patch = {"base": {"methods": ["coarse", "gradient_clipping", "oracle"], "seeds": [0]}}
    with pytest.raises(FailedRowsError, match="2 rows failed"):
        quietly(grid, copy, patch)
    assert set(json.loads((copy / "failures.json").read_text())) == {
        f"{cell}/gradient_clipping-seed0" for cell in ("binary", "three classes")
    }
    assert set(pd.read_csv(copy / "results.csv")["method"]) == {"coarse", "oracle"}


def test_the_main_experiment_runs_from_one_command(tmp_path, monkeypatch):
    """All of it but length, size and the real images."""
    small = {"size": 32, "train_images": 16, "val_images": 6, "test_images": 6, "batch_size": 4}
    base = {"steps": 12, "seeds": [0], "validations": 1, "accelerator": "cpu", "data": {"init_args": small}}
    network = {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 0}
    base["model"] = {"init_args": {"bootstrap": 10, "network": {"init_args": network}}}
    left_out = dict.fromkeys(("synthetic, three classes", "ISIC, binary", "ISIC, three classes"))
    patch = {"base": base, "axes": {"data": left_out, "forgotten": {"90 %": None}}}
    grid = files("erode.configs") / "benchmark" / "paper.yaml"
    with contextlib.redirect_stdout(io.StringIO()):
        main(["benchmark", str(grid), "--out", str(tmp_path / "paper"), "--patch", json.dumps(patch)])
    results = pd.read_csv(tmp_path / "paper" / "results.csv")
    assert len(results) == len(set(results["method"])) == 8
    assert set(results[results["guarantee"] == "certified"]["epsilon_certified"]) == {1.0}
    assert (tmp_path / "paper" / "s_global.png").exists()
    assert len(read_grid(Path(str(grid)))) == 8


def test_rows_log_to_weights_and_biases_as_one_group(tmp_path):
    path = tmp_path / "alone.yaml"
    path.write_text(yaml.safe_dump({"base": {**GRID["base"], "methods": ["coarse"]}}), encoding="utf-8")
    patch = {"base": {"model": {"init_args": {"num_classes": 3}}}}
    quietly(path, tmp_path / "group-of-two", patch, wandb=True)
    runs = sorted(tmp_path.rglob("offline-run-*/*.wandb"))
    assert len(runs) == 2
    assert all(b"group-of-two" in run.read_bytes() for run in runs)
