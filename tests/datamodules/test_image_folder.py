import json
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml

from erode.batch import UNKNOWN_ARTEFACT
from erode.cli import main
from erode.datamodules import TrapSplit
from erode.datamodules.errors import DataError
from erode.datamodules.image_folder import ImageFolderDataModule
from erode.masks import View
from erode.metrics import SpuriousLeakage

REPOSITORY = Path(__file__).parents[2]

SHAPE = (12, 16)


def lesion(value: int = 255, grow: int = 0) -> np.ndarray:
    mask = np.zeros(SHAPE)
    mask[4 - grow : 8 + grow, 5 - grow : 11 + grow] = value
    return mask


@pytest.fixture
def folder(tmp_path, save) -> Path:
    """Twenty images of ten patients; odd ones are healthy, every fourth shows an artefact."""
    rows = ["name,class,patient,part,tube,line"]
    for i in range(20):
        save(tmp_path / "images" / f"p{i:02d}.jpg", np.full(SHAPE, 100))
        save(tmp_path / "masks" / f"p{i:02d}_mask.png", lesion(0 if i % 2 else 255))
        save(tmp_path / "tubes" / f"p{i:02d}_mask.png", lesion(0 if i % 4 else 255, grow=2))
        part = "train" if i < 12 else "val" if i < 16 else "test"
        label, tube, line = 0 if i % 2 else "nodule", int(i % 4 == 0), "" if i == 5 else 0
        rows.append(f"p{i:02d},{label},{i // 2},{part},{tube},{line}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path


TABLE = {
    "mask_suffix": "_mask",
    "artefact_masks": "tubes",
    "table": "table.csv",
    "id_column": "name",
    "label_column": "class",
    "group_column": "patient",
    "flag_columns": ["tube", "line"],
    "class_names": ["background", "nodule"],
}


def test_table_gives_labels_parts_groups_and_flags(folder):
    data = ImageFolderDataModule(folder, split_column="part", **TABLE)
    cases = data.cases()
    assert [case.label for case in cases] == [1, 0] * 10
    assert [case.part for case in cases] == ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    assert cases[4].flags == {"any": 1, "tube": 1, "line": 0}
    assert cases[5].flags == {"tube": 0}  # nobody said whether it shows a line, so "any" is unknown
    arrays = data.read(cases[4])
    assert arrays.image.shape == (3, *SHAPE)
    np.testing.assert_array_equal(arrays.mask, lesion(1))
    np.testing.assert_array_equal(arrays.artefact, lesion(1, grow=2))
    data.prepare_data()


def test_patients_stay_in_one_part(folder):
    for seed in range(5):
        cases = ImageFolderDataModule(folder, part_seed=seed, **TABLE).cases()
        assert len({(case.group, case.part) for case in cases}) == 10
        assert {case.part for case in cases} == {"train", "val", "test"}


def test_a_trap_divides_by_flags_and_keeps_patients_whole(folder):
    trap = TrapSplit(bias=1.0, artefacts=["tube"])
    cases = ImageFolderDataModule(folder, trap=trap, fractions=(0.4, 0.1, 0.5), **TABLE).cases()
    assert len(cases) == 20
    assert len({(case.group, case.part) for case in cases}) == 10
    assert {case.part for case in cases} == {"train", "val", "test"}
    with pytest.raises(ValueError, match="a trap divides anew, 'part' is a division that exists"):
        ImageFolderDataModule(folder, trap=trap, split_column="part", **TABLE)


def test_without_a_table_masks_tell_label_and_flag(folder):
    data = ImageFolderDataModule(folder, mask_suffix="_mask", artefact_masks="tubes")
    cases = data.cases()
    assert [case.label for case in cases] == [1, 0] * 10
    assert [case.flags["any"] for case in cases] == [1, 0, 0, 0] * 5


def test_mask_values_give_several_classes(folder, save):
    for i in range(20):
        save(folder / "masks" / f"p{i:02d}_mask.png", lesion([0, 50, 90][i % 3]))
    names = ["background", "nodule", "effusion"]
    data = ImageFolderDataModule(
        folder, mask_suffix="_mask", class_names=names, mask_values={0: 0, 50: 1, 90: 2}, size=8
    )
    cases = data.cases()
    assert [case.label for case in cases] == [i % 3 for i in range(20)]
    assert data.read(cases[2]).mask.shape == (8, 8)
    data.prepare_data()


def test_annotated_coarse_masks_decide_the_forget_set(folder, save):
    ids = [f"p{i:02d}" for i in range(20)]
    for id in ids[:8]:
        (folder / "masks" / f"{id}_mask.png").rename(folder / f"{id}.png")
        save(folder / "coarse" / f"{id}_mask.png", lesion(0 if int(id[1:]) % 2 else 255, grow=3))
    data = ImageFolderDataModule(folder, coarse_masks="coarse", split_column="part", **TABLE, view=View.COARSE)
    data.prepare_data()
    data.setup("fit")
    assert list(data.split.coarse) == ids[:8]
    assert list(data.split.fine) == ids[8:12]
    np.testing.assert_array_equal(data.dataset("train")[0]["mask"], lesion(1, grow=3))
    cases = ImageFolderDataModule(folder, coarse_masks="coarse", **TABLE).cases()
    assert {case.part for case in cases[:8]} == {"train"}  # evaluation needs fine masks
    assert {case.part for case in cases[8:]} == {"train", "val", "test"}
    save(folder / "coarse" / "p10_mask.png", lesion(0))
    data = ImageFolderDataModule(folder, coarse_masks="coarse", split_column="part", **TABLE)
    with pytest.raises(DataError, match=r"coarse/p10_mask\.png leaves out 24 pixels of .*: .* enlarge it"):
        data.prepare_data()


def coarse_only(folder, save, *numbers):
    for number in numbers:
        (folder / "masks" / f"p{number:02d}_mask.png").unlink()
        save(folder / "coarse" / f"p{number:02d}_mask.png", lesion(0 if number % 2 else 255, grow=3))


def test_a_patient_with_a_coarse_mask_only_trains_and_training_needs_no_other(folder, save):
    coarse_only(folder, save, *range(0, 16, 2))  # eight patients of ten
    cases = ImageFolderDataModule(folder, coarse_masks="coarse", fractions=(0.2, 0.4, 0.4), **TABLE).cases()
    assert {case.part for case in cases[:16]} == {"train"}
    assert {case.part for case in cases[16:]} == {"val", "test"}


def test_where_all_patients_have_one_that_is_said(folder, save):
    coarse_only(folder, save, *range(0, 20, 2))
    message = r"10 of 10 images with fine masks train, for their patients \(patient\) .* name the parts in a column"
    with pytest.raises(DataError, match=message):
        ImageFolderDataModule(folder, coarse_masks="coarse", **TABLE).cases()


def test_volumes_are_read_with_their_axes_in_order(tmp_path):
    volume = np.random.default_rng(0).normal(size=(6, 7, 8))
    for i in range(8):
        for name, array in {"images": volume, "masks": (volume > 1).astype(np.uint8)}.items():
            (tmp_path / name).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name / f"c{i}.nii.gz")
    data = ImageFolderDataModule(tmp_path, spatial_dims=3, channels=1, fractions=(0.5, 0.25, 0.25))
    data.prepare_data()
    arrays = data.read(data.cases()[0])
    assert arrays.image.shape == (1, 8, 7, 6)
    np.testing.assert_array_equal(arrays.mask, volume.T > 1)


def test_bad_files_and_tables_are_named_with_a_remedy(folder, save):
    def fails(match: str, **changes: object) -> None:
        with pytest.raises(DataError, match=match):
            ImageFolderDataModule(folder, **{**TABLE, "split_column": "part", **changes}).prepare_data()

    original = (folder / "table.csv").read_text()
    table = folder / "table.csv"
    for old, new, match in [
        (
            "p03,",
            "p99,",
            r"names p99, absent from .*images: add it(.|\n)*no row for the image p03|no row(.|\n)*p99",
        ),
        (
            "nodule,0,",
            "cyst,0,",
            r"p00 has the label 'cyst': write a class number or one of background, nodule",
        ),
        ("nodule,0,", "5,0,", r"p00: label 5, but the classes are 0\.\.1: correct the label"),
        (",0,train,1", ",0,training,1", "p00 is in 'training': write train, val, test"),
        (",0,train,1,0", ",0,train,yes,0", "p00 has tube 'yes': write 0, 1 or nothing"),
        ("p00,nodule,0,train", "p00,nodule,0,test", r"of its group '0' in .*: move one"),
    ]:
        table.write_text(original.replace(old, new, 1))
        fails(match)
    table.write_text(original)
    fails("no column 'sex'", group_column="sex")
    save(folder / "masks" / "p02_mask.png", lesion()[:8])
    (folder / "masks" / "p04_mask.png").write_bytes(b"")
    save(folder / "tubes" / "p06_mask.png", np.zeros((3, 3)))
    save(folder / "images" / "p08.jpg", np.zeros((24, 32)))
    save(folder / "masks" / "p08_mask.png", np.zeros((24, 32)))
    save(folder / "tubes" / "p08_mask.png", np.zeros((24, 32)))
    (folder / "masks" / "p01_mask.png").unlink()
    fails(
        r"5 problems in the data:\n"
        r"- .*p01\.jpg has neither a fine nor a coarse mask: add one.*\n"
        r"- .*masks/p02_mask\.png has shape \[8, 16\], .*: export .*\n"
        r"- .*masks/p04_mask\.png is empty .*: download it again\n"
        r"- .*tubes/p06_mask\.png has shape \[3, 3\], .*: export .*\n"
        r"- .*p08\.jpg has shape \[3, 24, 32\], others have \[3, 12, 16\]: set size"
    )
    fails(r"p04_mask\.png is empty", label_column=None)  # where the mask was to tell the label
    save(folder / "tubes" / "p77_mask.png", lesion())
    fails(r"tubes/p77_mask\.png has no image p77: add the image")


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="patient are columns of a table: set table"):
        ImageFolderDataModule(tmp_path, group_column="patient")
    with pytest.raises(ValueError, match="flag 'ruler' is none of flag_columns"):
        ImageFolderDataModule(tmp_path, flag="ruler")
    with pytest.raises(ValueError, match="more than two classes set label_column or mask_values"):
        ImageFolderDataModule(tmp_path, class_names=["background", "a", "b"])


def test_beyond_incomplete_outlines_artefacts_are_unknown(folder):
    table = folder / "table.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{head},missing", *(f"{row},{['', 0, 2][i % 3]}" for i, row in enumerate(rows))]))
    data = ImageFolderDataModule(folder, incomplete_column="missing", **TABLE)
    cases = {case.id: case for case in data.cases()}
    outlined = lesion(1, grow=2)
    assert np.array_equal(data.read(cases["p00"]).artefact, outlined)
    assert np.array_equal(data.read(cases["p08"]).artefact, np.where(outlined, 1, UNKNOWN_ARTEFACT))
    assert (data.read(cases["p05"]).artefact == UNKNOWN_ARTEFACT).all()
    leakage = SpuriousLeakage(2)
    item = data.read(cases["p08"])
    mask, artefact = torch.from_numpy(item.mask)[None], torch.from_numpy(item.artefact)[None]
    leakage.update(torch.ones_like(mask), mask, artefact)
    assert leakage.background[:, 0].sum() == 0  # no pixel counts as free of artefacts
    assert leakage.compute()["leak_any"] == 1


def test_an_incomplete_outline_that_shows_nothing_says_nothing(folder):
    """Without flag columns the mask tells the flag, unless it is empty and leaves artefacts out."""
    table = folder / "table.csv"
    head, *rows = table.read_text().splitlines()
    said = [["", "0", "0.0", "1", "1.0"][i % 5] for i in range(len(rows))]
    table.write_text("\n".join([f"{head},missing", *(f"{row},{x}" for row, x in zip(rows, said, strict=True))]))
    told = ImageFolderDataModule(folder, incomplete_column="missing", **{**TABLE, "flag_columns": ()})
    plain = ImageFolderDataModule(folder, **{**TABLE, "flag_columns": ()})
    seen = set()
    for case, whole, word in zip(told.cases(), plain.cases(), said, strict=True):
        empty = whole.flags == {"any": 0}
        assert case.flags == ({} if empty and word in ("1", "1.0") else whole.flags)
        unknown = (told.read(case).artefact == UNKNOWN_ARTEFACT).any()
        assert unknown == (word in ("1", "1.0"))
        seen.add((empty, word))
    assert {(True, "1.0"), (False, "1.0"), (True, "0.0"), (False, "0.0")} <= seen


@pytest.fixture
def radiographs(real_data) -> Path:
    return real_data("cxr_devices")


@pytest.fixture
def configured(radiographs) -> ImageFolderDataModule:
    """The packaged configuration on the real images."""
    settings = yaml.safe_load((files("erode.configs") / "data" / "cxr_devices.yaml").read_text())["data"]["init_args"]
    return ImageFolderDataModule(**{**settings, "root": radiographs, "coarsening": None, "fine_fraction": 0.25})


def test_real_chest_radiographs(configured):
    configured.prepare_data()
    cases = configured.cases()
    assert len(cases) == 44
    assert len({(case.group, case.part) for case in cases}) == 37
    assert {case.label for case in cases} == {1}
    assert sum(case.flags["any"] for case in cases) == 17
    arrays = [configured.read(case) for case in cases]
    shown = [(a.artefact > 0) & (a.artefact < UNKNOWN_ARTEFACT) for a in arrays]
    over = sum(int((s & (a.mask > 0)).sum()) for s, a in zip(shown, arrays, strict=True))
    assert 0.2 < over / sum(int(s.sum()) for s in shown) < 0.8  # devices lie over the lungs: supports are not disjoint
    assert sum(bool((a.artefact == UNKNOWN_ARTEFACT).any()) for a in arrays) == 9
    flagged = {case.id for case in cases if case.flags["any"]}
    assert {case.id for case, s in zip(cases, shown, strict=True) if s.any()} <= flagged


def test_real_chest_radiographs_are_compared(radiographs, tmp_path):
    main([
        "compare", f"--config={REPOSITORY / 'benchmarks' / 'cxr_devices.yaml'}", f"--data.root={radiographs}",
        "--steps=1", "--seeds=[0]", "--methods=[coarse]", f"--out={tmp_path / 'out'}",
    ])  # fmt: skip
    metrics = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][0]["metrics"]
    assert metrics["leakage"] is not None
    assert metrics["s_global"] is not None
    assert metrics["auroc"] is None  # every image shows lungs
