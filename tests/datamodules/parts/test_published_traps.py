import pytest

from erode.datamodules import Case, DataError, PublishedTrap

HEADER = ",image,dark_corner,hair,gel_border,gel_bubble,ruler,ink,patches,vasc,label,label_string"


def publish(folder, **parts):
    """Tables as they are published: an index, file names, 0/1 flags."""
    for part, ids in parts.items():
        rows = [f"{i},ISIC_{id:07d}.png,0,1,0,0,0,0,0,0,{id % 2},x" for i, id in enumerate(ids)]
        (folder / f"isic_annotated_{part}1.csv").write_text("\n".join([HEADER, *rows]))
    return PublishedTrap(folder)


def cases(*ids, groups=None):
    return [Case(f"ISIC_{id:07d}", 1, "train", group=(groups or {}).get(id, "")) for id in ids]


def divide(trap, cases):
    return {int(case.id[5:]): case.part for case in trap.divide(cases, [True] * len(cases), None, 0)}


def test_the_published_leak_is_named_and_closed(tmp_path):
    """As published: every validation image is in training too."""
    trap = publish(tmp_path, train=range(8), val=[2, 5], test=[8, 9])
    with pytest.warns(UserWarning, match=r"train1\.csv: 2 of 8 images are in a later part too.* taken out of train"):
        parts = divide(trap, cases(*range(11)))
    assert parts == {**dict.fromkeys((0, 1, 3, 4, 6, 7), "train"), 2: "val", 5: "val", 8: "test", 9: "test"}


def test_near_duplicates_do_not_straddle(tmp_path):
    trap = publish(tmp_path, train=[0, 1, 2], val=[3], test=[4, 5])
    with pytest.warns(UserWarning, match=r"train1\.csv: 0 of 3 .* and 1 belong to the group of one there"):
        parts = divide(trap, cases(*range(6), groups={1: "pair", 4: "pair", 0: "both train", 2: "both train"}))
    assert parts == {0: "train", 2: "train", 3: "val", 4: "test", 5: "test"}


def test_tables_of_2022_have_other_names_and_endings(tmp_path):
    for part, id in (("train", 1), ("val", 2), ("test", 3)):
        (tmp_path / f"{part}_bias_0.5_2.csv").write_text(
            f"{HEADER}\n3,ISIC_{id:07d},0.03,.9,0,0,0,0,0,.1,1,malignant\n"
        )
    assert divide(PublishedTrap(tmp_path, "{part}_bias_0.5_2.csv"), cases(1, 2, 3)) == {1: "train", 2: "val", 3: "test"}


def test_other_data_are_refused_and_partial_data_counted(tmp_path):
    trap = publish(tmp_path, train=[0, 1, 2], val=[3], test=[4, 5])
    with pytest.warns(UserWarning, match="2 images of the published trap set are absent"):
        assert len(divide(trap, cases(0, 3, 4, 5))) == 4
    with pytest.raises(DataError, match=r"val1\.csv names no image of this data that is left for val"):
        divide(trap, cases(0, 1, 4))
    (tmp_path / "isic_annotated_val1.csv").unlink()
    with pytest.raises(DataError, match=r"val1\.csv cannot be read"):
        divide(trap, cases(0))
    with pytest.raises(ValueError, match=r"must hold \{part\}"):
        PublishedTrap(tmp_path, "train.csv")
