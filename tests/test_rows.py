"""An experiment goes on where it stopped, and never with other settings."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.comparison import compare
from erode.files import digest_of
from erode.protocols.classification import classify
from erode.protocols.ladder import ladder
from erode.protocols.traps import traps
from erode.rows import check_settings, claim, differences, number, stored


def test_a_folder_belongs_to_one_experiment(tmp_path):
    claim(tmp_path / "out", {"steps": 3}, "ladder")
    claim(tmp_path / "out", {"steps": 3}, "ladder")
    with pytest.raises(ValueError, match=r"holds a ladder with other settings \(steps: 3 there, 4 asked for\)"):
        claim(tmp_path / "out", {"steps": 4}, "ladder")


def test_rows_of_unknown_settings_are_not_taken_over(tmp_path):
    stored(tmp_path / "rows" / "one.json", lambda: {"value": 1})
    with pytest.raises(ValueError, match="without their settings"):
        claim(tmp_path, {"steps": 3}, "ladder")


def test_looking_at_a_folder_writes_nothing(tmp_path):
    check_settings(tmp_path / "out", {"steps": 3}, "ladder")
    assert not (tmp_path / "out").exists()


PLAIN = st.recursive(
    st.none() | st.integers() | st.text("ab", max_size=2), lambda inner: st.dictionaries(st.sampled_from("xyz"), inner)
)
SETTINGS = st.dictionaries(st.sampled_from("xyz"), PLAIN)


@settings(deadline=None)
@given(SETTINGS, SETTINGS)
def test_differences_are_named_exactly_where_digests_differ(before, now):
    assert differences(before, before) == []
    assert bool(differences(before, now)) == (digest_of(before) != digest_of(now))


def test_differences_say_where_and_shorten_digests():
    before = {"data": {"pixels": "0123456789abcdef" * 4, "flips": True}, "torch": "2.12"}
    now = {"data": {"pixels": "fedcba9876543210" * 4, "flips": True}, "overlay": None, "torch": "2.13"}
    assert differences(before, now) == [
        "data, pixels: 01234567… there, fedcba98… asked for",
        "torch: 2.12 there, 2.13 asked for",
        "overlay: nothing there, None asked for",
    ]


def test_a_row_is_computed_once_and_a_failed_one_leaves_nothing(tmp_path):
    path = tmp_path / "rows" / "one.json"
    with pytest.raises(ZeroDivisionError):
        stored(path, lambda: {"value": 1 / 0})
    assert not path.exists()
    assert stored(path, lambda: {"value": 1}) == stored(path, lambda: {"value": 2}) == {"value": 1}


def test_of_two_that_want_a_row_one_computes_it(tmp_path):
    computed = []

    def compute():
        computed.append(1)
        time.sleep(0.3)
        return {"value": len(computed)}

    path = tmp_path / "rows" / "one.json"
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda _: stored(path, compute), range(2)))
    assert rows == [{"value": 1}, {"value": 1}]
    assert [file.name for file in path.parent.iterdir()] == ["one.json"]


@pytest.mark.parametrize("command", [compare, ladder, classify, traps])
def test_no_experiment_counts_a_seed_twice(command, tmp_path):
    with pytest.raises(ValueError, match="seeds has 1 more than once"):
        command(out=tmp_path / "out", seeds=[1, 0, 1])


def test_undefined_values_become_none():
    assert number(float("nan")) is None
    assert number(0.5) == 0.5


@pytest.mark.parametrize("name", ["weights.safetensors", "unlearned", "metrics.csv", "checkpoints"])
def test_the_folder_of_a_run_is_no_place_for_an_experiment(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"holds a run .{name}., and nothing is overwritten; choose another out"):
        claim(tmp_path, {"steps": 1}, "comparison")
    assert not (tmp_path / "settings.json").exists()
