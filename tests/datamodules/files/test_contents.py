"""Files count by what they hold: all of them, wherever they lie, each read once."""

import os
import shutil

import numpy as np
from PIL import Image

from erode.datamodules import ImageFolderDataModule
from erode.datamodules.files.contents import content_of


def folder(root, differ):
    """64 images with square masks; bitmaps of one size, whatever they show."""
    for name in ("images", "masks", "others"):
        (root / name).mkdir(parents=True)
    for number in range(64):
        mask = np.zeros((16, 16), np.uint8)
        mask[4:8, 4:8] = 255
        other = mask.T[::-1] if differ(number) else mask
        Image.fromarray(np.full((16, 16, 3), 3 * number, np.uint8)).save(root / "images" / f"{number:02}.bmp")
        Image.fromarray(mask).save(root / "masks" / f"{number:02}.bmp")
        Image.fromarray(other).save(root / "others" / f"{number:02}.bmp")
    return root


def described(root, masks):
    return ImageFolderDataModule(root, masks=masks, size=16).describe()


def test_masks_that_differ_in_few_files_of_one_size_are_told_apart(tmp_path):
    root = folder(tmp_path / "data", lambda number: number % 4)
    one, other = described(root, "masks"), described(root, "others")
    assert one["pixels"] == other["pixels"]  # of every fourth case
    assert one["cases"] != other["cases"]


def test_moved_files_are_the_same(tmp_path):
    root = folder(tmp_path / "data", lambda number: False)
    before = described(root, "masks")
    assert described(root, "others") == before
    shutil.move(root, tmp_path / "elsewhere")
    assert described(tmp_path / "elsewhere", "masks") == before


def test_a_file_is_read_again_only_after_it_changed(tmp_path):
    file = tmp_path / "slice"
    file.write_bytes(b"before")
    before, date = content_of(file), file.stat().st_mtime_ns
    file.write_bytes(b"after!")
    os.utime(file, ns=(date, date))
    assert content_of(file) == before  # as good as unchanged: not read
    os.utime(file, ns=(date, date + 1))
    assert content_of(file) != before


def test_a_folder_of_slices_counts_by_all_of_them(tmp_path):
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / name).write_bytes(name.encode())
    before = content_of(tmp_path)
    (tmp_path / "2.dcm").write_bytes(b"2.DCM")
    os.utime(tmp_path / "2.dcm", ns=(0, 0))
    assert content_of(tmp_path) != before
