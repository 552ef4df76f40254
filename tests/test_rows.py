"""An experiment goes on where it stopped, and never with other settings."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from erode.comparison import compare
from erode.protocols.classification import classify
from erode.protocols.ladder import ladder
from erode.protocols.traps import traps
from erode.rows import claim, number, stored


def test_a_folder_belongs_to_one_experiment(tmp_path):
    claim(tmp_path / "out", {"steps": 3}, "ladder")
    claim(tmp_path / "out", {"steps": 3}, "ladder")
    with pytest.raises(ValueError, match="holds a ladder with other settings"):
        claim(tmp_path / "out", {"steps": 4}, "ladder")


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
