"""What a DICOM header says must not change bytes in silence, and a series is one volume or refused."""

import numpy as np
import pydicom
import pytest
from dicom_files import write_dicom
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from erode.datamodules.errors import DataError
from erode.datamodules.files.formats import load
from erode.datamodules.files.reading import read_image

RNG = np.random.default_rng(0)
BYTES = RNG.integers(60, 180, (8, 9)).astype(np.uint8)


def test_a_rescaling_that_changes_nothing_leaves_bytes_on_their_scale(tmp_path):
    idle = {"RescaleSlope": "1", "RescaleIntercept": "0"}
    plain = read_image(write_dicom(tmp_path / "a.dcm", BYTES), channels=1)
    np.testing.assert_array_equal(plain[0], BYTES / np.float32(255))
    np.testing.assert_array_equal(read_image(write_dicom(tmp_path / "b.dcm", BYTES, **idle), channels=1), plain)
    rescaled = load(write_dicom(tmp_path / "c.dcm", BYTES, RescaleSlope="2", RescaleIntercept="-10"), 2)
    np.testing.assert_array_equal(rescaled.values[0], 2.0 * BYTES - 10)


@pytest.mark.parametrize(("bits", "unit"), [(8, 1), (16, 257)])
def test_palettes_become_their_colours(tmp_path, bits, unit):
    table = np.arange(255, -1, -1).astype(f"u{bits // 8}") * np.array(unit, f"u{bits // 8}")
    tags = {}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    pixels = load(write_dicom(tmp_path / "a.dcm", BYTES, "PALETTE COLOR", **tags), 2)
    assert pixels.values.dtype == np.uint8
    np.testing.assert_array_equal(pixels.values, np.stack([255 - BYTES] * 3))


def series(folder, changes):
    for number in range(4):
        tags = {"SeriesInstanceUID": "1.2.3", **changes.get(number, {})}
        instance, photometric = number + 1, tags.pop("PhotometricInterpretation", "MONOCHROME2")
        write_dicom(folder / f"{number}.dcm", BYTES + np.uint8(number), photometric, instance, **tags)
    return folder


def test_a_series_may_be_grey_or_in_colour(tmp_path):
    np.testing.assert_array_equal(
        load(series(tmp_path / "grey", {}), 3).values, [[BYTES + np.uint8(k) for k in range(4)]]
    )
    colour = RNG.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    for number in range(2):
        write_dicom(tmp_path / "colour" / f"{number}.dcm", colour[number], "RGB", number)
    np.testing.assert_array_equal(load(tmp_path / "colour", 3).values, colour.transpose(3, 0, 1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"InstanceNumber": None}, r"2\.dcm has no InstanceNumber: .* add it or move the file out"),
        ({"InstanceNumber": 1}, r"2\.dcm and .*0\.dcm both have the InstanceNumber 1: .* number the slices"),
        ({"SeriesInstanceUID": "1.2.9"}, r"0\.dcm has the SeriesInstanceUID 1\.2\.3, .*2\.dcm has 1\.2\.9: .* move"),
        (
            {"PhotometricInterpretation": "MONOCHROME1"},
            r"0\.dcm has the PhotometricInterpretation MONOCHROME2, .*2\.dcm",
        ),
    ],
)
def test_slices_that_are_not_of_one_volume_are_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load(series(tmp_path / "scan", {2: change}), 3)


def test_a_missing_decoder_is_no_damage(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", BYTES)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)
    with pytest.raises(DataError, match=r"a\.dcm is stored as JPEG Lossless.* no decoder .*install one") as caught:
        load(path, 2)
    assert "damaged" not in str(caught.value)
