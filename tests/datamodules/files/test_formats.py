import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import ExifTags, Image

from erode.datamodules.errors import DataError
from erode.datamodules.files.formats import load, stem

RNG = np.random.default_rng(0)


def test_a_picture_that_would_fill_the_memory_is_not_decoded(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))))
    with pytest.raises(DataError, match=r"bomb\.png cannot be read \(.*3600000000 pixels.*decompression bomb"):
        load(path, 2)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_pictures_come_rows_first_and_exact(tmp_path, save, name):
    grey, colour = RNG.integers(0, 256, (5, 9)), RNG.integers(0, 256, (5, 9, 3))
    np.testing.assert_array_equal(load(save(tmp_path / name, grey), 2).values, grey[None])
    values = load(save(tmp_path / name, colour), 2).values
    np.testing.assert_array_equal(values, colour.transpose(2, 0, 1))


def test_dicom_comes_rows_first_with_its_bits(tmp_path):
    grey = RNG.integers(0, 4096, (5, 9)).astype(np.uint16)
    pixels = load(write_dicom(tmp_path / "a.dcm", grey), 2)
    np.testing.assert_array_equal(pixels.values, grey[None])
    assert pixels.shape == (5, 9)
    colour = RNG.integers(0, 256, (5, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        load(write_dicom(tmp_path / "1.2.840", colour, "RGB"), 2).values, colour.transpose(2, 0, 1)
    )
    assert load(write_dicom(tmp_path / "b.dcm", grey, "MONOCHROME1"), 2).inverted


def test_dicom_series_is_stacked_by_instance_number(tmp_path):
    volume = RNG.integers(0, 4096, (4, 5, 9)).astype(np.uint16)
    for name, instance in {"z": 1, "a": 2, "m": 3, "b": 4}.items():
        write_dicom(tmp_path / "scan" / f"{name}.dcm", volume[instance - 1], instance=instance)
    np.testing.assert_array_equal(load(tmp_path / "scan", 3).values, volume[None])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_meets_itself_in_any_orientation(tmp_path, name):
    volume = RNG.integers(0, 1000, (3, 4, 5)).astype(np.int16)  # x, y, z
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / name)
    expected = volume.transpose(2, 1, 0)[None]
    np.testing.assert_array_equal(load(tmp_path / name, 3).values, expected)
    flipped = nibabel.Nifti1Image(volume[::-1].transpose(1, 0, 2), np.eye(4)[[1, 0, 2, 3]] * [1, -1, 1, 1])
    nibabel.save(flipped, tmp_path / f"flipped_{name}")
    np.testing.assert_array_equal(load(tmp_path / f"flipped_{name}", 3).values, expected)


def test_nifti_channels_and_single_slices(tmp_path):
    channels = RNG.normal(size=(3, 4, 5, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(channels, np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(load(tmp_path / "a.nii", 3).values, channels.transpose(3, 2, 1, 0))
    for slice_ in (channels[:, :, 0, 0], channels[:, :, :1, 0]):
        nibabel.save(nibabel.Nifti1Image(slice_, np.eye(4)), tmp_path / "b.nii")
        np.testing.assert_array_equal(load(tmp_path / "b.nii", 2).values[0], channels[:, :, 0, 0].T)


def test_jpeg_is_decoded_small_but_not_too_small(tmp_path, save):
    smooth = np.linspace(0, 255, 400)[:, None] * np.ones((1, 800))
    path = save(tmp_path / "a.jpg", smooth)
    pixels = load(path, 2, "L", at_least=(80, 90))
    assert pixels.shape == (400, 800)
    assert pixels.values.shape == (1, 100, 200)
    np.testing.assert_allclose(pixels.values[0], smooth.reshape(100, 4, 200, 4).mean((1, 3)), atol=2)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.dcm", "a.nii", "a.nii.gz", "noending"])
def test_bad_files_are_named_with_a_remedy(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(DataError, match=rf"{name} does not exist: restore it"):
        load(path, 2)
    path.touch()
    with pytest.raises(DataError, match=rf"{name} is empty .*: download it again"):
        load(path, 2)
    path.write_bytes(b"not an image at all" * 20)
    with pytest.raises(DataError, match=rf"{name} cannot be read .*: it may be damaged"):
        load(path, 2)


def test_truncated_files_are_named(tmp_path, save):
    noise = RNG.integers(0, 256, (64, 64))
    files = [save(tmp_path / "a.png", noise), save(tmp_path / "a.jpg", noise)]
    files.append(write_dicom(tmp_path / "a.dcm", noise.astype(np.uint16)))
    nibabel.save(nibabel.Nifti1Image(noise[..., None].astype(np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    for path in [*files, tmp_path / "a.nii.gz"]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=rf"{path.name} cannot be read"):
            load(path, 2)


def test_another_dimension_is_refused(tmp_path, save):
    with pytest.raises(DataError, match=r"a\.png has the spatial shape \[4, 4\], but spatial_dims is 3"):
        load(save(tmp_path / "a.png", np.zeros((4, 4))), 3)


def test_stem_cuts_known_endings_only():
    names = ["a.b.PNG", "a.nii.gz", "a.dcm", "1.2.840", "a"]
    assert [stem(Path(name)) for name in names] == ["a.b", "a", "a", "1.2.840", "a"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_pictures_are_turned_as_their_exif_says(tmp_path, name, orientation):
    shown = np.kron(RNG.integers(0, 2, (3, 5)), np.full((64, 64), 255)).astype(np.uint8)
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}
    back |= {2: Image.Transpose.FLIP_LEFT_RIGHT, 4: Image.Transpose.FLIP_TOP_BOTTOM}
    back |= {5: Image.Transpose.TRANSPOSE, 7: Image.Transpose.TRANSVERSE}
    stored = Image.fromarray(shown)
    stored = stored.transpose(back[orientation]) if orientation in back else stored
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / name, exif=exif, **({"quality": 100} if name == "a.jpg" else {}))
    if name == "a.tif" and orientation > 4:
        with pytest.raises(DataError, match=r"a\.tif is stored sideways .*: save it upright"):
            load(tmp_path / name, 2)
        return
    for mode in ("L", None):
        pixels = load(tmp_path / name, 2, mode)
        assert pixels.shape == shown.shape
        np.testing.assert_allclose(pixels.values[0], shown, atol=2)
    small = load(tmp_path / name, 2, "L", at_least=(24, 40))
    assert small.shape == shown.shape
    assert small.values.shape[1] >= 24
    assert small.values.shape[2] >= 40
    scale = shown.shape[0] // small.values.shape[1]
    np.testing.assert_allclose(small.values[0], shown[::scale, ::scale], atol=2)


def test_a_camera_s_previews_are_left_out_and_pages_refused(tmp_path):
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (200, 10))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    np.testing.assert_allclose(load(tmp_path / "a.jpg", 2).values, 200, atol=2)
    second.save(tmp_path / "a.tif", save_all=True, append_images=[second.copy()])
    with pytest.raises(DataError, match=r"2 pages in one picture; store a volume as NIfTI"):
        load(tmp_path / "a.tif", 2)


def test_the_order_of_bytes_does_not_matter(tmp_path):
    deep = RNG.integers(0, 2**16, (6, 7)).astype(">u2")
    tags = [(256, 4, 7), (257, 4, 6), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 6)]
    tags.append((279, 4, deep.nbytes))
    rows = []
    for tag, kind, value in tags:
        rows.append(struct.pack(">HHI", tag, kind, 1) + value.to_bytes(2 if kind == 3 else 4).ljust(4, b"\0"))
    head = b"MM" + struct.pack(">HI", 42, 8 + deep.nbytes)
    (tmp_path / "a.tif").write_bytes(head + deep.tobytes() + struct.pack(">H", len(tags)) + b"".join(rows) + bytes(4))
    values = load(tmp_path / "a.tif", 2).values
    assert values.dtype.isnative
    np.testing.assert_array_equal(values[0], deep)
