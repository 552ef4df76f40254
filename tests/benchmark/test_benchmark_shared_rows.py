"""A grid over ε trains what ε has no part in once, and what it has a part in each time."""

import contextlib
import io
import json
import shutil

import pandas as pd
import pytest
import torch
import yaml

from erode.benchmark import benchmark
from erode.benchmark.shared_rows import take_over
from erode.weights import read_state

torch.set_num_threads(1)

GRID = {
    "base": {
        "steps": 12,
        "seeds": [0],
        "methods": ["coarse", "retain_view", "gradient_clipping", "same_noise"],
        "accelerator": "cpu",
        "data": {
            "class_path": "SyntheticDermoscopy",
            "init_args": {"size": 32, "train_images": 16, "val_images": 6, "test_images": 6, "batch_size": 4},
        },
    },
    "axes": {"epsilon": {"1": {"epsilon": 1.0}, "8": {"epsilon": 8.0}}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        benchmark(folder / "grid.yaml", folder / "out")
    return folder / "out", printed.getvalue()


def test_what_epsilon_has_no_part_in_is_trained_once(finished):
    lines = [line for line in finished[1].splitlines() if line.startswith("seed 0: ")]
    assert sum("as in 1" in line for line in lines) == 2
    assert len(lines) == 8


def test_a_row_that_was_taken_over_is_whole(finished):
    one, other = (finished[0] / "cells" / name for name in ("1", "8"))
    for name in ("coarse-seed0", "retain_view-seed0"):
        assert (one / "rows" / f"{name}.json").read_bytes() == (other / "rows" / f"{name}.json").read_bytes()
        for part in ("weights", "logs"):
            files = sorted(path.relative_to(one) for path in (one / part / name).rglob("*") if path.is_file())
            assert files
            for path in files:
                assert (one / path).read_bytes() == (other / path).read_bytes()


def test_certified_rows_stand_on_their_own(finished):
    results = pd.read_csv(finished[0] / "results.csv")
    certified = results[results["guarantee"] == "certified"]
    assert sorted(certified["epsilon_certified"].unique()) == [1.0, 8.0]
    assert len(results) == 2 * 4
    assert results["configuration"].is_unique
    one, other = (finished[0] / "cells" / name / "weights" / "same_noise-seed0" for name in ("1", "8"))
    one, other = (read_state(folder / "weights.safetensors") for folder in (one, other))
    assert not any(torch.equal(one[name], other[name]) for name in one if one[name].is_floating_point())


@pytest.mark.parametrize("changed", ["steps", "torch", "precision", "data"])
def test_nothing_is_taken_from_other_settings(finished, tmp_path, changed):
    source = finished[0] / "cells"
    settings = json.loads((source / "1" / "settings.json").read_text())
    shutil.copy(source / "1" / "config.yaml", tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({**settings, changed: "another"}))
    assert not take_over(source, tmp_path, "coarse", 0)
    assert not (tmp_path / "rows").exists()


def test_nothing_is_taken_from_another_configuration(finished, tmp_path):
    """Settings may be equal where a configuration asks for something that they do not show."""
    source = finished[0] / "cells"
    shutil.copy(source / "1" / "settings.json", tmp_path)
    assert not take_over(source, tmp_path, "coarse", 0)  # of no known configuration
    config = yaml.safe_load((source / "1" / "config.yaml").read_text())
    scheduler = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}
    config["model"] = {"class_path": "SegmentationModule", "init_args": {"lr_scheduler": scheduler}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert not take_over(source, tmp_path, "coarse", 0)
    assert not (tmp_path / "rows").exists()


def test_nothing_is_taken_for_a_row_that_is_told_epsilon(finished, tmp_path):
    for name in ("settings.json", "config.yaml"):
        shutil.copy(finished[0] / "cells" / "1" / name, tmp_path)
    assert not take_over(finished[0] / "cells", tmp_path, "gradient_clipping", 0)
    assert take_over(finished[0] / "cells", tmp_path, "coarse", 0)


def test_a_copy_that_was_cut_short_is_made_anew(finished, tmp_path):
    source = finished[0] / "cells"
    for name in ("settings.json", "config.yaml"):
        shutil.copy(source / "1" / name, tmp_path)
    torn = tmp_path / "weights" / "coarse-seed0"
    torn.mkdir(parents=True)
    (torn / "weights.safetensors").write_bytes(b"half")
    (torn / "stray").write_bytes(b"")
    assert take_over(source, tmp_path, "coarse", 0)
    assert sorted(path.name for path in torn.iterdir()) == sorted(
        path.name for path in (source / "1" / "weights" / "coarse-seed0").iterdir()
    )
    assert read_state(torn / "weights.safetensors")


def test_what_was_deleted_is_not_missed(finished, tmp_path):
    """Logs may go; a row without its weights is computed, for others start from them."""
    source, folder = tmp_path / "cells", tmp_path / "cells" / "new"
    shutil.copytree(finished[0] / "cells" / "1", source / "1")
    folder.mkdir()
    for name in ("settings.json", "config.yaml"):
        shutil.copy(source / "1" / name, folder)
    shutil.rmtree(source / "1" / "logs")
    shutil.rmtree(source / "1" / "weights" / "retain_view-seed0")
    assert take_over(source, folder, "coarse", 0)
    assert (folder / "weights" / "coarse-seed0" / "weights.safetensors").exists()
    assert not (folder / "logs").exists()
    assert not take_over(source, folder, "retain_view", 0)
