from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from erode.datamodules import TrapSplit, artefact_correlations
from erode.datamodules.errors import DataError
from erode.datamodules.files.isic_layouts import ARTEFACTS, LAYOUTS, find_lesions, read_artefacts, read_malignancy
from erode.datamodules.isic import NEAR_DUPLICATES, ISICDataModule

IDS = [f"ISIC_{i:07d}" for i in range(10)]
LESION = np.pad(np.full((4, 4), 255), ((2, 4), (3, 5)))


def challenge(root: Path, year: int, save) -> Path:
    """The official folders of one challenge in miniature; every third lesion is malignant."""
    for layout in (layout for layout in LAYOUTS if layout.year == year):
        ending = "_Segmentation" if year == 2016 else "_segmentation"
        ids = [f"{id}{['train', 'val', 'test'].index(layout.part)}" for id in IDS]
        for id in ids:
            save(root / layout.images / f"{id}.jpg", np.full((10, 12, 3), 200))
            save(root / layout.images / f"{id}_superpixels.png", np.zeros((10, 12)))
            save(root / layout.masks / f"{id}{ending}.png", LESION)
        if layout.labels is None:
            continue
        values = [int(i % 3 == 0) for i in range(len(ids))]
        if layout.year == 2016:
            words = ("benign", "malignant") if layout.part == "train" else ("0.0", "1.0")
            text = "".join(f"{id},{words[value]}\n" for id, value in zip(ids, values, strict=True))
        else:
            text = "image_id,melanoma,seborrheic_keratosis\n"
            text += "".join(f"{id},{value}.0,0.0\n" for id, value in zip(ids, values, strict=True))
        (root / layout.labels).write_text(text)
    return root


def artefacts(path: Path, ids: list[str]) -> Path:
    """A table like isic_bias.csv: an index, semicolons, file names, a label."""
    rows = [f"{i};{id}.png;{i % 2};0;0;0;{i % 2};0;0;{int(i % 3 == 0)};x" for i, id in enumerate(ids)]
    path.write_text("\n".join([f";image;{';'.join(ARTEFACTS)};label;label_string", *rows]))
    return path


@pytest.mark.parametrize("year", [2016, 2017])
def test_official_folders_with_labels(tmp_path, save, year):
    root = challenge(tmp_path, year, save)
    data = ISICDataModule(root, task="multiclass", size=None)
    cases = data.cases()
    assert len(cases) == (20 if year == 2016 else 30)
    assert Counter(case.label for case in cases) == ({1: 12, 2: 8} if year == 2016 else {1: 18, 2: 12})
    assert all(case.label == 1 + (int(case.id[-2]) % 3 == 0) for case in cases)
    for case in cases[:4]:
        arrays = data.read(case)
        assert arrays.image.shape == (3, 10, 12)
        np.testing.assert_array_equal(arrays.mask, LESION // 255 * case.label)
    data.prepare_data()


def test_parts_of_the_challenge(tmp_path, save):
    cases = ISICDataModule(challenge(tmp_path, 2017, save), fractions=None).cases()
    assert all(case.part == ["train", "val", "test"][int(case.id[-1])] for case in cases)
    assert {case.label for case in cases} == {1}
    with pytest.raises(DataError, match="has no images in the challenge's val: add them or set fractions"):
        ISICDataModule(challenge(tmp_path / "2016", 2016, save), fractions=None).cases()


def test_2018_takes_malignancy_from_elsewhere(tmp_path, save):
    root = challenge(tmp_path / "data", 2018, save)
    ids = sorted(lesion.id for lesion in find_lesions(root))
    with pytest.raises(DataError, match=r"malignancy of ISIC_\d+ and 29 others is unknown: set labels_csv"):
        ISICDataModule(root, task="multiclass").cases()
    table = artefacts(tmp_path / "isic_bias.csv", ids)
    data = ISICDataModule(root, task="multiclass", labels_csv=table, artefact_csv=table, flag="ruler")
    cases = data.cases()
    assert {case.id: case.label for case in cases} == {id: 1 + (i % 3 == 0) for i, id in enumerate(ids)}
    assert {case.id: case.flags["ruler"] for case in cases} == {id: i % 2 for i, id in enumerate(ids)}
    assert all(case.flags["any"] == case.flags["dark_corner"] for case in cases)
    task3 = tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv"
    task3.write_text(
        "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,1.0,0.0,0.0,0.0,0.0,0.0,0.0\nISIC_2,0.0,1.0,0,0,0,0,0\n"
    )
    assert read_malignancy(task3) == {"ISIC_1": True, "ISIC_2": False}


def test_archives_may_be_nested(tmp_path, save):
    for layout in LAYOUTS[2:5]:
        challenge(tmp_path, 2017, save)
        nested = tmp_path / layout.images / layout.images
        files = list((tmp_path / layout.images).iterdir())
        nested.mkdir()
        for file in files:
            file.rename(nested / file.name)
        break
    assert len(find_lesions(tmp_path)) == 30


def test_prepared_folder_without_flags(tmp_path, save):
    for id in IDS:
        save(tmp_path / "images" / f"{id}.jpg", np.full((10, 12, 3), 200))
        save(tmp_path / "masks" / f"{id}.png", LESION)
    rows = [f"{id},{['train', 'val', 'test'][i % 3]},{i % 2}" for i, id in enumerate(IDS)]
    (tmp_path / "metadata.csv").write_text("\n".join(["image_id,split,malignant", *rows]))
    cases = ISICDataModule(tmp_path, task="multiclass", fractions=None).cases()
    assert [(case.label, case.flags) for case in cases] == [(1 + i % 2, {}) for i in range(10)]
    assert [case.part for case in cases[:3]] == ["train", "val", "test"]
    (tmp_path / "metadata.csv").write_text("\n".join(["image_id,split,malignant", *rows]).replace("val", "dev"))
    with pytest.raises(DataError, match=r"metadata\.csv puts ISIC_0000001 in 'dev': write train, val or test"):
        find_lesions(tmp_path)


def test_near_duplicates_stay_together(tmp_path, save):
    layout = LAYOUTS[2]
    for id in [*IDS, *(id for pair in NEAR_DUPLICATES for id in pair)]:
        save(tmp_path / layout.images / f"{id}.jpg", np.zeros((10, 12, 3)))
        save(tmp_path / layout.masks / f"{id}_segmentation.png", LESION)
    for seed in range(10):
        parts = {case.id: case.part for case in ISICDataModule(tmp_path, part_seed=seed).cases()}
        assert all(parts[a] == parts[b] for a, b in NEAR_DUPLICATES)


def test_wrong_folders_are_named_with_a_remedy(tmp_path, save):
    with pytest.raises(DataError, match="absent is no folder: set root"):
        find_lesions(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no ISIC challenge: expected e\.g\. ISIC-2017_Training_Data"):
        find_lesions(tmp_path)
    challenge(tmp_path, 2017, save)
    masks = tmp_path / LAYOUTS[2].masks
    (tmp_path / LAYOUTS[2].images / "ISIC_00000030.jpg").unlink()
    with pytest.raises(DataError, match=r"ISIC_00000030_segmentation\.png has no image"):
        find_lesions(tmp_path)
    (masks / "ISIC_00000030_segmentation.png").unlink()
    (masks / "ISIC_00000040_segmentation.png").unlink()
    with pytest.raises(DataError, match=r"ISIC_00000040\.jpg has neither a fine nor a coarse mask: add one"):
        ISICDataModule(tmp_path, fractions=None).prepare_data()
    masks.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"has no masks: unpack ISIC-2017_Training_Part1_GroundTruth below"):
        find_lesions(tmp_path)
    challenge(tmp_path, 2016, save)
    with pytest.raises(DataError, match=r"holds the challenges \[2016, 2017\].*: set root to the folder of one"):
        find_lesions(tmp_path)


def test_wrong_tables_are_named_with_a_remedy(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image_id,melanoma\nISIC_1,maybe\n")
    with pytest.raises(DataError, match=r"t\.csv says 'maybe' of ISIC_1 .*expected 0, 1"):
        read_malignancy(path)
    path.write_text("image_id,age\nISIC_1,7\n")
    with pytest.raises(DataError, match=r"t\.csv has no column 'malignant'"):
        read_malignancy(path)
    path.write_text(f"image;{';'.join(ARTEFACTS)}\nISIC_1.png;0;0;0;0;0;0;2\n")
    with pytest.raises(DataError, match=r"t\.csv has an artefact flag other than 0 or 1 for ISIC_1"):
        read_artefacts(path)
    with pytest.raises(ValueError, match="flag 'tattoo' is no ISIC artefact: choose any, dark_corner"):
        ISICDataModule(tmp_path, flag="tattoo")


def test_real_isic2017(real_data):
    root = real_data("isic2017")
    data = ISICDataModule(root, task="multiclass", flag="patches", size=32)
    cases = data.cases()
    assert len(cases) == 1551
    assert sum(case.label == 2 for case in cases) == 293
    assert sum(bool(case.flags) for case in cases) == 1386
    for part, fraction in {"train": 0.6, "val": 0.15, "test": 0.25}.items():
        here = [case for case in cases if case.part == part]
        assert len(here) == pytest.approx(fraction * 1551, abs=3)
        assert sum(case.label == 2 for case in here) == pytest.approx(fraction * 293, abs=4)
    parts = {case.id: case.part for case in cases}
    assert all(parts[a] == parts[b] for a, b in NEAR_DUPLICATES if a in parts and b in parts)
    arrays = data.read(cases[0])
    assert arrays.image.shape == (3, 32, 32)
    assert set(np.unique(arrays.mask)) <= {0, cases[0].label}
    assert abs((arrays.mask > 0).mean() - 0.46661) < 0.02  # mask_fraction of ISIC_0000000


def test_real_trap_set(real_data):
    """Artefacts point as in the published trap sets, which are drawn from the full set of 2,594 images."""
    data = ISICDataModule(real_data("isic2017"), task="binary", flag="ruler", trap=TrapSplit(bias=1.0))
    rows = artefact_correlations(data.cases(), data.is_positive)
    phi = {(row.part, row.artefact): row.phi for row in rows}
    assert {row.part: row.images for row in rows} == {"train": 832, "val": 207, "test": 347}
    for name, sign in {"dark_corner": 1, "hair": -1, "gel_border": 1, "gel_bubble": -1, "ruler": 1, "ink": 1}.items():
        assert sign * phi["train", name] > 0 > sign * phi["test", name]
        assert sign * phi["val", name] > 0
    assert phi["train", "ruler"] > 0.3
    assert phi["test", "ruler"] < -0.6
    parts = {case.id: case.part for case in data.cases()}
    assert all(parts[a] == parts[b] for a, b in NEAR_DUPLICATES if a in parts and b in parts)


def test_traps_need_malignancy_and_flags(tmp_path, save):
    root = challenge(tmp_path / "data", 2018, save)
    with pytest.raises(DataError, match=r"malignancy of ISIC_\d+ and 29 others is unknown: set labels_csv$"):
        ISICDataModule(root, trap=TrapSplit()).cases()
    table = artefacts(tmp_path / "isic_bias.csv", sorted(lesion.id for lesion in find_lesions(root)))
    with pytest.raises(DataError, match="gel_border is the same in all images"):
        ISICDataModule(root, trap=TrapSplit(), labels_csv=table, artefact_csv=table).cases()
    trap = TrapSplit(artefacts=["ruler"])
    data = ISICDataModule(root, trap=trap, labels_csv=table, artefact_csv=table, fractions=(0.5, 0.1, 0.4))
    phi = {
        row.part: row.phi for row in artefact_correlations(data.cases(), data.is_positive) if row.artefact == "ruler"
    }
    assert phi["test"] * phi["train"] < 0
