import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from erode.datamodules.case import Arrays, Case
from erode.datamodules.errors import DataError
from erode.datamodules.files.reading import read_case
from erode.datamodules.files.validation import validate_cases

BLANK = np.zeros((4, 4), np.int64)
LESION = np.pad(np.ones((2, 2), np.int64), 1)
GOOD = Arrays(np.zeros((1, 4, 4), np.float32), mask=LESION, coarse=np.ones_like(BLANK))


def case(id: str, **fields: object) -> Case:
    return replace(Case(id, label=1, part="train", paths={"image": Path(f"{id}.png")}), **fields)


def problems(cases: list[Case], arrays: Arrays = GOOD, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        validate_cases(cases, lambda case: arrays, 3, progress=False, **options)
    return str(caught.value)


def test_good_cases_pass():
    validate_cases([case("a"), case("b", paths={})], lambda case: GOOD, 3)


@pytest.mark.parametrize(
    ("cases", "file", "remedy"),
    [
        ([case("a"), case("a")], "a names two cases", "rename or remove one"),
        (
            [case("a", group="ann"), case("b", group="ann", part="test")],
            "b is in test, a of its group 'ann' in train",
            "move one",
        ),
        ([case("a", label=7)], "a: label 7, but the classes are 0..2", "correct the label"),
        ([case("a", paths={"artefact": Path("ruler.png")})], "ruler.png has no image", "add the image of a"),
    ],
)
def test_wrong_cases_are_named_with_a_remedy(cases, file, remedy):
    message = problems(cases, single_class=False)
    assert file in message
    assert remedy in message


@pytest.mark.parametrize(
    ("change", "fields", "file", "remedy"),
    [
        ({"image": np.full((1, 4, 4), np.nan, np.float32)}, {}, "a.png holds NaN", "replace them"),
        ({"mask": None, "coarse": None}, {}, "a.png has neither a fine nor a coarse mask", "add one"),
        ({"mask": None}, {"part": "val"}, "a.png is in val without a fine mask", "move the image to train"),
        ({"mask": BLANK[:2]}, {}, "a_mask.png has shape [2, 4], but its image has [4, 4]", "export the mask"),
        ({"artefact": BLANK[1:].astype(np.uint8)}, {}, "a_ruler.png has shape [3, 4]", "export the mask"),
        ({"mask": 5 * LESION}, {}, "a_mask.png holds the classes [5]", "name the classes"),
        ({"mask": -LESION}, {}, "a_mask.png holds the classes [-1]", "name the classes"),
        ({"mask": 2 * LESION}, {}, "a_mask.png holds class 2, but the label of a is 1", "correct one"),
        (
            {"mask": LESION + np.eye(4, dtype=int)},
            {},
            "a_mask.png holds the classes [1, 2]",
            "single_class: false",
        ),
        ({"coarse": BLANK}, {}, "the coarse leaves out 4 pixels of a_mask.png", "enlarge it"),
    ],
)
def test_wrong_pixels_are_named_with_a_remedy(change, fields, file, remedy):
    paths = {kind: Path(f"a{end}.png") for kind, end in {"image": "", "mask": "_mask", "artefact": "_ruler"}.items()}
    message = problems([case("a", paths=paths, **fields)], replace(GOOD, **change))
    assert file in message
    assert remedy in message


def test_masks_without_any_foreground_are_no_masks():
    blank = Arrays(np.zeros((1, 4, 4), np.float32), mask=BLANK)
    said = problems([case("a"), case("b")], blank)
    assert "none of 2 fine masks has any foreground: give the folder of the masks" in said


def test_two_classes_may_be_allowed():
    two = replace(GOOD, mask=LESION + np.diag([0, 1, 0, 0]))
    validate_cases([case("a")], lambda case: two, 3, single_class=False, progress=False)


def test_a_case_without_a_fine_mask_may_not_count_as_fine():
    coarse = Arrays(GOOD.image, mask=None, coarse=GOOD.coarse)
    told = problems([case("a"), case("b")], coarse, coarse_only={"a"})
    assert "b has no fine mask, but the split may count it as fine" in told
    assert "a has no" not in told
    validate_cases([case("a")], lambda case: coarse, 3, progress=False)


def test_unequal_shapes_are_reported():
    shapes = iter([(4, 4), (4, 5)])

    def read(case):
        shape = next(shapes)
        return Arrays(np.zeros((1, *shape), np.float32), mask=np.zeros(shape, np.int64))

    with pytest.raises(DataError, match=r"b\.png has shape \[1, 4, 5\], others have \[1, 4, 4\]: set size"):
        validate_cases([case("a"), case("b")], read, 2, progress=False)


def test_all_bad_files_are_listed_together(tmp_path, save):
    ids = ["good", "missing", "empty", "damaged", "small", "noisy"]
    cases = [
        Case(id, 1, "train", paths={kind: tmp_path / kind / f"{id}.png" for kind in ("image", "mask")}) for id in ids
    ]
    for each in cases:
        save(each.paths["image"], np.zeros((8, 8)))
        save(each.paths["mask"], np.pad(np.full((2, 2), 255), 3))
    cases[1].paths["mask"].unlink()
    cases[2].paths["image"].write_bytes(b"")
    cases[3].paths["image"].write_bytes(cases[0].paths["image"].read_bytes()[:40])
    save(cases[4].paths["mask"], np.zeros((4, 4)))
    save(cases[5].paths["mask"], np.arange(64).reshape(8, 8))
    with pytest.raises(DataError) as caught:
        validate_cases(cases, read_case, 2, progress=False)
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 problems in the data:"
    expected = [
        "does not exist: restore",
        "is empty",
        "cannot be read",
        "export the mask",
        "threshold the mask",
    ]
    for line, id, words in zip(lines[1:], ids[1:], expected, strict=True):
        assert f"{id}.png" in line
        assert words in line


def test_the_search_stops_at_the_limit_and_holds_one_case_at_a_time():
    seen = []

    def read(case):
        seen.append(case.id)
        raise DataError(f"{case.id} is broken: mend it")

    with pytest.raises(DataError, match=r"3 problems in the data:(.|\n)*there may be more"):
        validate_cases([case(str(i)) for i in range(9)], read, 2, limit=3, progress=False)
    assert seen == ["0", "1", "2"]


def test_files_of_one_content_in_two_parts_are_named(tmp_path, save):
    def cases(contents):
        paths = [save(tmp_path / f"{i}.png", np.full((4, 4), value)) for i, (value, _) in enumerate(contents)]
        return [
            case(str(i), part=part, paths={"image": path})
            for i, (path, (_, part)) in enumerate(zip(paths, contents, strict=True))
        ]

    twice = cases([(7, "train"), (7, "test"), (9, "val"), (9, "val"), (8, "train")])
    with pytest.warns(UserWarning, match=r"1 image files hold the same bytes .*1\.png in test and .*0\.png in train"):
        validate_cases(twice, lambda case: GOOD, 3, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate_cases(cases([(7, "train"), (7, "train"), (9, "val")]), lambda case: GOOD, 3, progress=False)
