import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from erode.files import alone, digest_of, fresh_folder, parse_json, write_atomically, write_json


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})

    def fail_half_way(target):
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail_half_way)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_digest_sees_every_value_and_no_order():
    assert digest_of({"a": [1, 2], "b": "ä"}) == digest_of({"b": "ä", "a": [1, 2]})
    assert digest_of({"a": [1, 2]}) != digest_of({"a": [2, 1]})


def test_fresh_folders_never_repeat(tmp_path):
    first = fresh_folder(tmp_path / "runs", "fit")
    (first / "x").touch()
    second = fresh_folder(tmp_path / "runs", "fit")
    assert (first.name, second.name) == ("fit-0", "fit-1")
    assert (first / "x").exists()


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "\\u0061": 2}}]', '{"a": NaN}', '{"a": -Infinity}', "{"]
)
def test_json_of_which_readers_could_take_different_things_is_refused(text):
    with pytest.raises(ValueError, match=r"given twice|is no number of JSON|Expecting"):
        parse_json(text)


def test_other_json_is_read_as_json_reads_it():
    text = '{"a": [1, 2.5, null, true, "x"], "b": {"a": {}}}'
    assert parse_json(text) == json.loads(text)


def test_one_at_a_time_works_on_a_file(tmp_path):
    def add(_):
        with alone(tmp_path / "new" / "count.json") as lock:
            assert lock.exists()
            before = int((tmp_path / "count").read_text())
            time.sleep(0.005)
            (tmp_path / "count").write_text(str(before + 1))

    (tmp_path / "count").write_text("0")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    assert (tmp_path / "count").read_text() == "12"


def test_a_lock_is_let_go_when_the_work_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone(tmp_path / "x"):
            raise ZeroDivisionError
