"""Entries are found by content, made once, complete or absent."""

import numpy as np
import pytest

from erode.datamodules.files.pixel_cache import PixelCache, content_key


def test_arrays_come_back_as_they_went_and_are_made_once(tmp_path):
    cache, made = PixelCache(tmp_path / "cache"), []
    arrays = {"image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "mask": np.eye(2, dtype=bool), "n": np.array(3.5)}
    for _ in range(3):
        found = cache.get("abc", lambda: made.append(1) or arrays)
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in arrays.items())
    assert len(made) == 1
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["abc.npz"]
    for _ in range(2):
        PixelCache(None).get("abc", lambda: made.append(1) or arrays)
    assert len(made) == 3


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_entry_is_made_anew(tmp_path, keep):
    cache = PixelCache(tmp_path)
    cache.get("abc", lambda: {"n": np.zeros(100)})
    path = tmp_path / "ab" / "abc.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert cache.get("abc", lambda: {"n": np.ones(100)})["n"].all()
    assert cache.get("abc", dict)["n"].all()


def test_an_entry_that_lost_a_bit_is_made_anew(tmp_path):
    cache, arrays = PixelCache(tmp_path), {"image": np.arange(8, dtype=np.uint8), "mask": np.eye(2, dtype=bool)}
    cache.get("abc", lambda: arrays)
    path = tmp_path / "ab" / "abc.npz"
    whole = path.read_bytes()
    for index in range(0, len(whole), 3):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ (1 << index % 8)]) + whole[index + 1 :])
        found = cache.get("abc", lambda: arrays)
        assert found.keys() == arrays.keys()
        assert all(
            np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in arrays.items()
        )
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").replace(path)
    assert cache.get("abc", lambda: arrays).keys() == arrays.keys()


def test_an_entry_that_cannot_be_made_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="damaged"):
        PixelCache(tmp_path).get("abc", lambda: (_ for _ in ()).throw(ValueError("damaged")))
    assert not list(tmp_path.rglob("*.npz"))


def test_keys_follow_content_and_settings_and_not_names(tmp_path):
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_bytes(b"same"), b.write_bytes(b"same"), c.write_bytes(b"other")
    assert content_key(a, {"size": 2}) == content_key(b, {"size": 2})
    assert len({content_key(a, {"size": 2}), content_key(a, {"size": 3}), content_key(c, {"size": 2})}) == 3
