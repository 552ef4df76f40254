"""A grid is every combination of its axes, each a configuration that erode compare takes."""

import itertools
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.benchmark.grid import merged, read_grid

SYNTHETIC = {"class_path": "SyntheticDermoscopy"}
GRID = {
    "base": {"steps": 2, "seeds": [0, 1], "methods": ["coarse", "fine_tune"], "data": SYNTHETIC},
    "axes": {
        "size": {name: {"data": {"init_args": {"size": size}}} for name, size in (("small", 32), ("large", 64))},
        "fine": {name: {"data": {"init_args": {"fine_fraction": f}}} for name, f in (("10 %", 0.1), ("50 %", 0.5))},
    },
}


def written(tmp_path, content):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def test_cells_are_all_combinations_and_the_last_axis_varies_fastest(tmp_path):
    cells = read_grid(written(tmp_path, GRID))
    assert [cell.name for cell in cells] == ["small_10 %", "small_50 %", "large_10 %", "large_50 %"]
    assert [cell.config["data"]["init_args"] for cell in cells] == [
        {"size": size, "fine_fraction": fine} for size, fine in itertools.product((32, 64), (0.1, 0.5))
    ]
    assert cells[0].seeds == [0, 1]
    assert cells[0].methods == ["coarse", "fine_tune"]


def test_without_axes_there_is_one_cell(tmp_path):
    assert [cell.name for cell in read_grid(written(tmp_path, {"base": GRID["base"]}))] == ["all"]


def test_a_patch_changes_every_cell(tmp_path):
    assert {cell.config["steps"] for cell in read_grid(written(tmp_path, GRID), {"base": {"steps": 7}})} == {7}


def test_a_row_has_a_digest_of_its_own_that_other_rows_do_not_change(tmp_path):
    cells = read_grid(written(tmp_path, GRID))
    rows = [(cell, method, seed) for cell in cells for method in cell.methods for seed in cell.seeds]
    digests = [cell.digest(method, seed, {}) for cell, method, seed in rows]
    assert len(set(digests)) == len(rows)
    grown = read_grid(written(tmp_path, GRID), {"base": {"seeds": [0, 1, 2], "methods": ["coarse"]}})
    assert grown[0].digest("coarse", 1, {}) == cells[0].digest("coarse", 1, {})
    longer = read_grid(written(tmp_path, GRID), {"base": {"steps": 3}})
    assert longer[0].digest("coarse", 1, {}) != cells[0].digest("coarse", 1, {})


def test_settings_are_those_that_the_experiment_writes_and_the_digest_of_a_row_covers_them(tmp_path):
    small = {"size": 32, "train_images": 16, "val_images": 6, "test_images": 6}
    base = {"steps": 3, "epsilon": 2.0, "data": {"init_args": small}}
    cell = read_grid(written(tmp_path, {"base": merged(GRID["base"], base)}))[0]
    settings = cell.settings()
    cell.experiment(tmp_path / "out", None)
    assert json.loads((tmp_path / "out" / "settings.json").read_text()) == settings
    for other in ({**settings, "torch": "0"}, {**settings, "data": {**settings["data"], "pixels": "0"}}):
        assert cell.digest("coarse", 0, other) != cell.digest("coarse", 0, settings)


@pytest.mark.parametrize(
    ("patch", "match"),
    [
        ({"extra": 1}, r"it also has \['extra'\]"),
        ({"base": {"steps": "many"}}, "small_10 %: .*steps"),
        ({"base": {"methods": ["fine_tune"]}}, "put 'coarse' before it"),
        ({"base": {"nothing": 1}}, "nothing"),
        ({"axes": {"fine": {"a_b": {}}}}, "'a_b' names a folder"),
        ({"axes": {"fine": {"../up": {}}}}, "names a folder"),
        ({"axes": {"fine": {"10 %": {"data": {"init_args": {"colour": 1}}}}}}, "colour"),
    ],
)
def test_what_is_no_grid_is_refused_with_the_reason(patch, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        read_grid(written(tmp_path, GRID), patch)


def test_a_grid_needs_a_base(tmp_path):
    with pytest.raises(ValueError, match="must have 'base'"):
        read_grid(written(tmp_path, {"axes": {}}))


PLAIN = st.recursive(st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner))
CONFIGS = st.dictionaries(st.sampled_from("abc"), PLAIN)


@settings(deadline=None)
@given(CONFIGS, CONFIGS, CONFIGS)
def test_patches_merge_one_after_the_other_or_all_at_once(base, one, other):
    assert merged(base, {}) == base
    assert merged({}, base) == base
    assert merged(base, base) == base
    assert merged(merged(base, one), one) == merged(base, one)
    if all(not isinstance(value, dict) for value in (*one.values(), *other.values())):
        assert merged(merged(base, one), other) == merged(base, merged(one, other))


BASE = {"methods": ["coarse"], "seeds": [0], "data": SYNTHETIC}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (["a"], "must be a mapping"),
        ({"base": BASE, "axes": ["a"]}, "its values by name"),
        ({"base": BASE, "axes": {"a": None}}, "its values by name"),
        ({"base": BASE, "axes": {"a": {"b": "text"}}}, "must be a configuration"),
        ({"base": BASE, "axes": {"parameters": {"few": {}}}}, "column 'parameters' already"),
        ({"base": BASE, "axes": {"a": {"b": None}}}, "every value of axis 'a' is left out"),
        ({"base": {**BASE, "seeds": [0, 1, 0]}}, "seeds has 0 more than once"),
        ({"base": {**BASE, "methods": ["coarse", "coarse"]}}, "methods has 'coarse' more than once"),
    ],
)
def test_what_is_no_grid_is_refused_in_words(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        read_grid(written(tmp_path, content))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no grid at"):
        read_grid(tmp_path / "grid.yaml")


def test_broken_yaml_is_refused_in_words(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("base: [", encoding="utf-8")
    with pytest.raises(ValueError, match="no readable YAML"):
        read_grid(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("base:\n  steps: [4\naxes: {\n", r"grid\.yaml:3 is no readable YAML: expected .*; close brackets and quotes$"),
        ("base: {stpes: 4, methods: [coarse], seeds: [0]}", r"'stpes' is not accepted(.|\n)*did you mean steps\?"),
        ("base: {methods: [retian_view], seeds: [0]}", r"retian_view(.|\n)*did you mean retain_view\?"),
        ("base: {methods: [coarse], seeds: 0}", r"write a list, in brackets and quotes"),
    ],
)
def test_mistakes_are_told_with_what_may_have_been_meant(text, why, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=why):
        read_grid(path)
