"""The challenge's layout in miniature: JPEG in DICOM, one folder per study, runs, tube labels."""

import io
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from erode.cli import main
from erode.datamodules import Overlay, PneumothoraxDataModule
from erode.datamodules.errors import DataError
from erode.datamodules.files.siim_layout import find_radiographs, read_runs, read_tubes
from erode.masks import View

ROWS, COLUMNS = 48, 40
IDS = [f"1.2.276.0.7230010.3.1.4.8323329.{i}" for i in range(24)]
TUBES = {id: i % 8 in (0, 1, 4) for i, id in enumerate(IDS[:16])}
MASK = np.zeros((ROWS, COLUMNS), bool)
MASK[8:20, 4:12] = True
RUNS = " ".join([f"{8 + 4 * ROWS} 12", *[f"{ROWS - 12} 12"] * 7])


def write_radiograph(path: Path, id: str, patient: str, grey: np.ndarray, **header: object) -> Path:
    """A DICOM file as the challenge has them: 8 bits, JPEG."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, id
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID, data.PatientID, data.Modality = (
        meta.MediaStorageSOPClassUID,
        id,
        patient,
        "CR",
    )
    data.PhotometricInterpretation, data.SamplesPerPixel, data.PixelRepresentation = "MONOCHROME2", 1, 0
    data.Rows, data.Columns = grey.shape
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    stream = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(stream, "JPEG", quality=95)
    data.PixelData = encapsulate([stream.getvalue()])
    data["PixelData"].is_undefined_length = True
    for name, value in header.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def path_of(root: Path, i: int) -> Path:
    return root / "dicom-images-train" / f"study{i}" / f"series{i}" / f"{IDS[i]}.dcm"


@pytest.fixture
def siim(tmp_path) -> Path:
    """24 images of 16 patients; even ones are ill; 16 have a tube label, of which ill ones mostly show a tube."""
    root = tmp_path / "siim"
    for i, id in enumerate(IDS):
        shade = np.add.outer(np.arange(ROWS), np.arange(COLUMNS)) + 3 * i
        write_radiograph(path_of(root, i), id, f"patient{i // 2 if i < 16 else i}", shade)
    rows = [f"{id}, {RUNS if i % 2 == 0 else '-1'}" for i, id in enumerate(IDS)]
    (root / "train-rle.csv").write_text("\n".join(["ImageId, EncodedPixels", *rows]))
    (root / "cxr_tube_dict.pkl").write_bytes(pickle.dumps(TUBES))
    return root


def module(root, **options):
    tubes = {"tube_labels": root / "cxr_tube_dict.pkl", "fractions": None, "flag": "tube"}
    return PneumothoraxDataModule(root, **{**tubes, "size": None, **options})


def test_labels_masks_tubes_and_patients(siim):
    data = module(siim)
    data.prepare_data()
    cases = {case.id: case for case in data.cases()}
    assert [cases[id].label for id in IDS] == [1, 0] * 12
    assert [cases[id].flags.get("tube") for id in IDS] == [1, 1, 0, 0, 1, 0, 0, 0] * 2 + [None] * 8
    assert cases[IDS[2]].group == cases[IDS[3]].group == "patient1"
    arrays = data.read(cases[IDS[0]])
    assert arrays.image.shape == (1, ROWS, COLUMNS)
    assert np.array_equal(arrays.mask, MASK)
    assert abs(arrays.image[0, 30, 20] - 50 / 255) < 0.02
    assert arrays.artefact is None
    assert not data.read(cases[IDS[1]]).mask.any()
    small = module(siim, size=(24, 20)).read(cases[IDS[0]])
    assert np.array_equal(small.mask, MASK[1::2, 1::2])
    assert small.image.shape == (1, 24, 20)


def test_images_with_a_tube_label_are_evaluated_and_patients_stay_whole(siim):
    labels = {id: tube for id, tube in TUBES.items() if id != IDS[3]}  # whose patient is labelled in another image
    (siim / "cxr_tube_dict.pkl").write_bytes(pickle.dumps(labels))
    for seed in range(5):
        cases = module(siim, part_seed=seed).cases()
        parts = {case.id: case.part for case in cases}
        assert [parts[id] for id in IDS[16:]] == ["train"] * 8
        assert {parts[id] for id in IDS[:16]} == {"val", "test"}
        assert 6 <= Counter(parts.values())["test"] <= 10  # 1000 of 1951, in patients of two
        assert len({(case.group, case.part) for case in cases}) == 16
    drawn = module(siim, fractions=(0.5, 0.25, 0.25), tube_labels=None).cases()
    assert Counter(case.part for case in drawn) == {"train": 12, "val": 6, "test": 6}
    with pytest.raises(DataError, match=r"no image has a tube label .*: set tube_labels or fractions"):
        module(siim, tube_labels=None).cases()


def test_several_rows_of_an_image_are_united_and_repeated_ones_count_once(siim):
    table = siim / "train-rle.csv"
    table.write_text(table.read_text() + f"\n{IDS[0]}, 0 3\n{IDS[0]}, 0 3\n{IDS[0]}, {RUNS}\n{IDS[1]}, -1")
    data = module(siim)
    case = next(case for case in data.cases() if case.id == IDS[0])
    expected = MASK.copy()
    expected[:3, 0] = True
    assert np.array_equal(data.read(case).mask, expected)
    assert len(data.runs[IDS[0]]) == 2
    assert data.runs[IDS[1]] == []


def test_images_without_a_row_are_left_out_with_a_warning(siim):
    write_radiograph(siim / "dicom-images-test" / "x.dcm", "1.2.3", "p", np.zeros((ROWS, COLUMNS)))
    with pytest.warns(UserWarning, match=r"1 of 25 images have no row in .*train-rle\.csv and are left out"):
        assert len(module(siim).cases()) == 24


def test_resized_once_and_kept_by_content(siim, monkeypatch):
    data = module(siim, size=16, cache_folder=siim / "cache")
    data.prepare_data()
    entries = sorted((siim / "cache").rglob("*.npz"))
    assert len(entries) == 24
    case = next(case for case in data.cases() if case.id == IDS[0])
    first = data.read(case)
    monkeypatch.setattr("erode.datamodules.pneumothorax.load_image", None)  # nothing may be decoded any more
    again = module(siim, size=16, cache_folder=siim / "cache", window=(0, 510))
    assert np.array_equal(again.read(case).mask, first.mask)
    np.testing.assert_allclose(again.read(case).image, first.image / 2, atol=1e-6)  # intensities are mapped afterwards
    monkeypatch.undo()
    fresh = module(siim, size=16, cache_folder=None).read(case)
    assert np.array_equal(fresh.image, first.image)
    write_radiograph(path_of(siim, 0), IDS[0], "patient0", np.full((ROWS, COLUMNS), 200))
    assert data.read(case).image.min() > 0.7
    table = siim / "train-rle.csv"
    table.write_text(table.read_text().replace(RUNS, "0 960", 1))
    other = module(siim, size=16, cache_folder=siim / "cache")
    assert not np.array_equal(other.read(case).mask, first.mask)
    assert len(list((siim / "cache").rglob("*.npz"))) == 26


def test_nothing_stays_in_memory(siim):
    """Twice through all of the data leaves less behind than one image of it takes."""
    data = module(siim, size=256, cache_folder=siim / "cache")
    data.prepare_data()
    data.setup("fit")
    data.serve(View.COARSE)
    dataset = data.dataset("train")
    assert dataset[0]["image"].shape == (1, 256, 256)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(2):
        for index in range(len(dataset)):
            dataset[index]
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < 256 * 256 * 4


def test_malformed_runs_and_wrong_tables_are_named_with_a_remedy(siim):
    table, original = siim / "train-rle.csv", (siim / "train-rle.csv").read_text()
    table.write_text(original.replace(RUNS, "1 2 3", 1).replace(f"{IDS[2]}, {RUNS}", f"{IDS[2]}, 1 99999", 1))
    with pytest.raises(DataError) as error:
        module(siim).prepare_data()
    assert f"{table}: {IDS[0]}: 3 numbers are no pairs" in str(error.value)
    assert f"{table}: {IDS[2]}: the runs end beyond the 1920 pixels" in str(error.value)
    for old, new, match in [
        ("EncodedPixels", "Pixels", "no column 'EncodedPixels', only ImageId, Pixels"),
        (
            f"{IDS[1]}, -1",
            f"{IDS[1]}, -1\n{IDS[1]}, 1 2",
            f"gives {IDS[1]} masks and, as -1, none: remove the wrong rows",
        ),
        (f"{IDS[1]},", "1.2.3,", r"names 1\.2\.3 and 0 others, absent from .*: unpack all"),
    ]:
        table.write_text(original.replace(old, new, 1))
        with pytest.raises(DataError, match=match):
            module(siim).cases()
    table.unlink()
    with pytest.raises(DataError, match=r"holds 0 tables named train-rle\.csv or stage_2_train\.csv: set rle_csv"):
        module(siim).cases()
    with pytest.raises(ValueError, match="flag 'ruler' is not known here: choose tube"):
        module(siim, flag="ruler")


def test_files_that_are_no_radiographs_are_named_together(siim):
    path_of(siim, 0).write_bytes(b"")
    path_of(siim, 1).write_bytes(path_of(siim, 1).read_bytes()[:100])
    write_radiograph(siim / "twice.dcm", IDS[2], "p", np.zeros((ROWS, COLUMNS)))
    with pytest.raises(DataError) as error:
        module(siim).cases()
    assert str(error.value).startswith("3 problems in the data:")
    assert all(word in str(error.value) for word in ("study0", "study1", f"both instance {IDS[2]}: remove one"))
    (siim / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.dcm file: unpack dicom-images-train there"):
        find_radiographs(siim / "empty")
    with pytest.raises(DataError, match="is no folder: set root"):
        find_radiographs(siim / "absent")


def test_decompression_bombs_are_not_decoded(siim):
    path = write_radiograph(path_of(siim, 0), IDS[0], "p", np.zeros((8, 8)), Rows=60_000, Columns=60_000)
    with pytest.raises(DataError, match=r"promises 3600000000 pixels, .*: it may be a decompression bomb"):
        module(siim).cases()
    deflated = Dataset()
    deflated.file_meta = FileMetaDataset()
    deflated.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    deflated.file_meta.MediaStorageSOPInstanceUID = IDS[0]
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated.SOPClassUID, deflated.SOPInstanceUID = SecondaryCaptureImageStorage, IDS[0]
    deflated.ImageComments = " " * 10**7
    pydicom.dcmwrite(path, deflated, enforce_file_format=True)
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="all of it is deflated"):
        module(siim).cases()
    # The header lies, the frame is the bomb: a JPEG of 4 kB that says it is 60000 pixels high.
    write_radiograph(path, IDS[0], "p", np.zeros((ROWS, COLUMNS)))
    content = path.read_bytes()
    frame = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:frame] + (60_000).to_bytes(2, "big") * 2 + content[frame + 4 :])
    with pytest.raises(DataError, match=r"cannot be read \((.|\n)*decompression bomb"):
        module(siim).prepare_data()


def test_a_file_that_vanishes_is_named(siim):
    data = module(siim)
    case = data.cases()[0]
    case.paths["image"].unlink()
    with pytest.raises(DataError, match=r"cannot be read \(.*No such file.*: restore it, or remove the rows of"):
        data.read(case)


def test_tube_labels(tmp_path):
    table = tmp_path / "tubes.csv"
    table.write_text("ImageId,tube\n1.2.3.dcm,1\n1.2.4,0\n")
    assert read_tubes(table) == {"1.2.3": 1, "1.2.4": 0}
    table.write_text("ImageId,tube\n1.2.3,yes\n")
    with pytest.raises(DataError, match=r"says 'yes' of 1\.2\.3: write 1 for a tube, 0 for none"):
        read_tubes(table)
    file = tmp_path / "tubes.pkl"
    file.write_bytes(pickle.dumps({"1.2.3": True, "1.2.4": False}))
    assert read_tubes(file) == {"1.2.3": 1, "1.2.4": 0}
    file.write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match=r"holds a list, not labels by image"):
        read_tubes(file)
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    file.write_bytes(pickle.dumps({"1.2.3": Trap()}))
    with pytest.raises(DataError, match=r"cannot be read \(it names pathlib.*write its labels as a table"):
        read_tubes(file)
    assert not trap.exists()


def test_tables_of_both_stages(tmp_path):
    first, second = tmp_path / "train-rle.csv", tmp_path / "stage_2_train.csv"
    first.write_text("ImageId, EncodedPixels\n1.2.3, 5 2\n1.2.4, -1\n")
    second.write_text("ImageId,EncodedPixels\n1.2.3,5 2\n1.2.4,-1\n")
    assert read_runs(first) == read_runs(second) == {"1.2.3": ["5 2"], "1.2.4": []}


def test_labels_of_other_images_are_noticed(siim):
    (siim / "cxr_tube_dict.pkl").write_bytes(pickle.dumps({"9.9": True}))
    with pytest.raises(DataError, match=r"labels none of the images in .*: its keys are SOPInstanceUIDs"):
        module(siim).cases()


def test_an_overlay_of_tubes_has_pixels(siim):
    data = module(siim, flag="any", size=64, overlay=Overlay({"pneumothorax": 1.0}, kinds=["tube"]))
    shown = [bool(data.pixels(case).artefact.any()) for case in data.part("train")]
    assert shown == [bool(case.label) for case in data.part("train")]


def test_from_the_command_line(siim, tmp_path):
    main([
        "test", "--data=PneumothoraxDataModule", f"--data.root={siim}", f"--data.tube_labels={siim}/cxr_tube_dict.pkl",
        "--data.fractions=null", "--data.flag=tube", "--data.size=32", "--model=SegmentationModule",
        "--model.in_channels=1", "--model.bootstrap=0", "--trainer.accelerator=cpu", "--trainer.devices=1",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ])  # fmt: skip
    header, *_, last = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    assert 0 <= float(row["test/auroc_robust"]) <= 1
    assert np.isnan(float(row["test/leakage"]))  # nobody outlined the tubes
