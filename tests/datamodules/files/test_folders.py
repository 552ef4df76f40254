import pytest

from erode.datamodules.errors import DataError
from erode.datamodules.files.folders import index_files, read_table, require_columns, require_images


def test_files_are_indexed_by_id(tmp_path):
    for name in ("b.nii.gz", "a_Segmentation.png", "a_superpixels.png", ".hidden", "c_segmentation.PNG"):
        (tmp_path / name).touch()
    assert list(index_files(tmp_path, ignore="superpixels")) == ["a_Segmentation", "b", "c_segmentation"]
    assert list(index_files(tmp_path, suffix="_segmentation")) == ["a", "c"]


def test_wrong_folders_are_named_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match="absent is no folder: correct the path"):
        index_files(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no file ending in _x: is it the right folder"):
        index_files(tmp_path, suffix="_x")
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"a\.png and .*a\.jpg have the same id a: remove one"):
        index_files(tmp_path)


def test_masks_without_image_are_named(tmp_path):
    with pytest.raises(DataError, match=r"ruler_b\.png has no image b: add the image"):
        require_images({"a": tmp_path}, {"a": tmp_path}, {"b": tmp_path / "ruler_b.png"})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_any_separator(tmp_path, separator):
    path = tmp_path / "t.csv"
    path.write_text("﻿id,age,note\n007.png,30,\n8,,x y\n".replace(",", separator), encoding="utf-8")
    rows = read_table(path, "id").to_dict("index")
    assert rows == {"007": {"age": "30", "note": ""}, "8": {"age": "", "note": "x y"}}


def test_wrong_tables_are_named_with_a_remedy(tmp_path):
    path = tmp_path / "t.csv"
    with pytest.raises(DataError, match=r"t\.csv cannot be read .*: correct the path"):
        read_table(path, "id")
    path.touch()
    with pytest.raises(DataError, match=r"t\.csv cannot be read as a table"):
        read_table(path, "id")
    path.write_text("id,label\na,0\na.png,1\n")
    with pytest.raises(DataError, match=r"t\.csv has two rows for a: remove one"):
        read_table(path, "id")
    with pytest.raises(DataError, match=r"t\.csv has no column 'image', only id, label: correct"):
        read_table(path, "image")
    with pytest.raises(DataError, match="no column 'age'"):
        require_columns(path, read_table(path.with_name("t.csv"), "label"), ["age"])
