"""Claims of painted artefacts: they change their mask and nothing else, the id decides, and metrics see them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import mutual_info_score

from erode.cli import main
from erode.datamodules import ImageFolderDataModule, ISICDataModule, Overlay, SyntheticDermoscopy
from erode.datamodules.case import Arrays, Case
from erode.datamodules.painting.brushes import Artefact
from erode.lightning_modules.evaluation import Evaluation
from erode.masks import View

REPOSITORY = Path(__file__).parents[2]
KINDS = ["ruler", "ink", "patch", "dark_corner", "hair", "tube"]
ALWAYS = {"benign": 1.0, "malignant": 1.0}
SHOWN = Case("scan", 1, "train", {"overlay": 1})


def texture(shape, channels=3, seed=0):
    return np.random.default_rng(seed).random((channels, *shape), np.float32)


def disk(shape, row, column, radius):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (np.hypot(y - row, x - column) < radius).astype(np.int64)


def folder(root, save, images=24):
    """Textures with a lesion each; every other one is malignant."""
    rows = ["id,diagnosis"]
    for i in range(images):
        save(root / "images" / f"p{i:02d}.png", 255 * np.moveaxis(0.2 + 0.6 * texture((32, 32), seed=i), 0, -1))
        save(root / "masks" / f"p{i:02d}.png", 255 * disk((32, 32), 12 + i % 5, 14 + i % 7, 5 + i % 3))
        rows.append(f"p{i:02d},{['benign', 'malignant'][i % 2]}")
    (root / "table.csv").write_text("\n".join(rows))
    return root


def of_folder(root, **options):
    table = {"table": "table.csv", "label_column": "diagnosis"}
    return ImageFolderDataModule(root, class_names=["background", "benign", "malignant"], **table, **options)


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(KINDS), channels=st.sampled_from([1, 3]),
    shape=st.sampled_from([(32, 32), (40, 64), (96, 64)]), place=st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)),
    radius=st.floats(0.0, 0.9), name=st.text(),
)  # fmt: skip
def test_the_mask_holds_every_changed_pixel_and_is_never_empty(kind, shape, channels, place, radius, name):
    mask = disk(shape, place[0] * shape[0], place[1] * shape[1], radius * min(shape))
    before = Arrays(texture(shape, channels), mask)
    case = Case(name, 1, "train", {"overlay": 1})
    after = Overlay(ALWAYS, kinds=[kind]).paint(case, before)
    shown = after.artefact > 0
    changed = (after.image != before.image).any(0)
    assert set(np.unique(after.artefact)) == {0, Artefact[kind.upper()]}
    assert shown.sum() >= 3
    assert not changed[~shown].any()
    assert changed[shown].mean() > 0.9
    assert np.array_equal(after.mask, mask)
    assert 0 <= after.image.min() <= after.image.max() <= 1


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["ruler", "ink", "patch"]), name=st.text(), size=st.sampled_from([48, 64, 96]),
    place=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), radius=st.floats(0.05, 0.4),
)  # fmt: skip
def test_what_lies_beside_a_lesion_lies_within_reach_of_its_coarse_mask(kind, name, size, place, radius):
    mask = disk((size, size), place[0] * size, place[1] * size, radius * size)
    assume(mask.any())
    case = Case(name, 1, "train", {"overlay": 1})
    shown = Overlay(ALWAYS, kinds=[kind]).paint(case, Arrays(texture(mask.shape), mask)).artefact > 0
    assert not (shown & (mask > 0)).any()
    assert distance_transform_edt(mask == 0)[shown].max() <= size / 8


def test_a_lesion_that_fills_the_image_gets_the_artefact_on_top():
    full = np.ones((64, 64), np.int64)
    for kind in KINDS:
        assert (Overlay(ALWAYS, kinds=[kind]).paint(SHOWN, Arrays(texture((64, 64)), full)).artefact > 0).sum() > 10


def test_the_id_alone_decides(tmp_path, save):
    """Neither the order nor the number of images, nor the part they are in."""
    cases = [Case(f"p{i}", 1 + i % 2, "train") for i in range(2000)]
    names = ["background", "benign", "malignant"]
    overlay = Overlay({"benign": 0.2, "malignant": 0.7}, kinds=["ruler", "ink"])
    flags = {case.id: case.flags["overlay"] for case in overlay.flag(cases, names)}
    again = {case.id: case.flags["overlay"] for case in overlay.flag(cases[::-3], names)}
    assert again.items() <= flags.items()
    assert [flags[f"p{i}"] for i in range(12)] == [0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1]  # the same on every machine
    more = Overlay({"benign": 0.4, "malignant": 0.9}).flag(cases, names)
    assert all(case.flags["overlay"] >= flags[case.id] for case in more)
    assert flags != {c.id: c.flags["overlay"] for c in Overlay(overlay.rates, seed=1).flag(cases, names)}
    data = of_folder(folder(tmp_path, save), overlay=Overlay(ALWAYS, kinds=["ruler", "ink"]))
    first = {case.id: data.pixels(case).image.tobytes() for case in data.part("train")}
    other = of_folder(tmp_path, part_seed=1, overlay=Overlay(ALWAYS, kinds=["ruler", "ink"]))
    here = {case.id: other.pixels(case).image.tobytes() for case in other.part("train")}
    assert {id for id in first if id in here and first[id] != here[id]} == set()
    assert len(first.keys() & here.keys()) > 5


def test_shares_follow_the_rates_of_class_and_part():
    parts = ("train", "val", "test")
    cases = [Case(f"{part}{i}", 1 + i % 2, part) for part in parts for i in range(2000)]
    flagged = Overlay({"benign": 0.1, "malignant": 0.9}).flag(cases, ["background", "benign", "malignant"])
    for part, expected in {"train": (0.1, 0.9), "val": (0.1, 0.9), "test": (0.5, 0.5)}.items():
        for label, rate in enumerate(expected, 1):
            shown = [case.flags["overlay"] for case in flagged if case.part == part and case.label == label]
            assert np.mean(shown) == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / 1000))
    only = Overlay({"malignant": 1.0}, {"benign": 1.0}).flag(cases, ["background", "benign", "malignant"])
    assert {(c.part == "test", c.label, c.flags["overlay"]) for c in only} == {
        (False, 1, 0), (False, 2, 1), (True, 1, 1), (True, 2, 0),
    }  # fmt: skip


@pytest.mark.parametrize("names", [["background", "benign", "malignant"], ["background", "pneumothorax"]])
def test_left_out_the_rates_of_test_are_neutral_whatever_classes_are_named(names):
    labels = (1, 2) if len(names) == 3 else (0, 1)
    cases = [Case(f"c{i}", labels[i % 2], "test") for i in range(4000)]
    overlay = Overlay({names[-1]: 0.9})
    flagged = overlay.flag(cases, names)
    for label in labels:
        shown = [case.flags["overlay"] for case in flagged if case.label == label]
        assert np.mean(shown) == pytest.approx(0.45, abs=4 * np.sqrt(0.25 / 2000))
    rates = overlay.completed(cases, names).test_rates
    assert rates == {names[label]: 0.45 for label in labels}
    both = Overlay({"benign": 0.1, "malignant": 0.9})
    only_malignant = [case for case in cases if case.label == 2]
    assert both.completed(only_malignant, ["background", "benign", "malignant"]).test_rates == {
        "benign": 0.5, "malignant": 0.5,
    }  # fmt: skip


def test_batches_carry_the_overlay_and_metrics_see_it(tmp_path, save):
    data = of_folder(
        folder(tmp_path, save, 60),
        overlay=Overlay({"benign": 0.0, "malignant": 1.0}, {"benign": 0.5, "malignant": 0.5}),
    )
    data.prepare_data()
    assert data.flag == "overlay"
    data.serve(View.COARSE)
    training = next(iter(data.train_dataloader()))
    assert torch.equal(training["flag"], (training["label"] == 2).long())
    assert torch.equal((training["artefact"] > 0).flatten(1).any(1).long(), training["flag"])
    inside = (training["coarse"] > 0) & (training["role"] == 1)
    assert inside[training["artefact"] > 0].float().mean() > 0.95  # a shortcut: in the coarse mask, not in the fine
    batches = list(data.test_dataloader())
    oracle, shortcut = (Evaluation(data.class_names, positive_class=2) for _ in range(2))
    zs, ss, ys = [], [], []
    for batch in batches:
        mask, artefact = batch["mask"], batch["artefact"] > 0
        fooled = torch.where((mask > 0) | artefact, 1 + batch["flag"].view(-1, 1, 1), 0)  # the artefact names the class
        for evaluation, classes in ((oracle, mask), (shortcut, fooled)):
            evaluation.update(10.0 * torch.nn.functional.one_hot(classes, 3).movedim(-1, 1), batch)
        zs.append(fooled), ss.append(artefact), ys.append(mask)
    good, bad = oracle.compute(), shortcut.compute()
    assert good["leakage"] == good["s_global"] == 0
    assert bad["leakage"] == 1
    assert good["auroc_robust"] == 1
    assert bad["auroc_robust"] == 0  # where artefact and diagnosis disagree, the artefact is always wrong
    z, s, y = (torch.cat(part).flatten().numpy() for part in (zs, ss, ys))
    images = sum(len(batch["id"]) for batch in batches)
    known = max((z == k).sum() / images * mutual_info_score(s[z == k], y[z == k]) for k in (1, 2))
    assert bad["s_global"].item() == pytest.approx(known, rel=1e-6)


def test_records_name_the_overlay_and_only_where_there_is_one():
    plain = SyntheticDermoscopy(size=32, train_images=4, val_images=2, test_images=2)
    painted = SyntheticDermoscopy(
        size=32, train_images=4, val_images=2, test_images=2, overlay=Overlay({"benign lesion": 1.0}, kinds=["tube"])
    )
    assert "overlay" not in plain.describe()
    assert painted.describe()["overlay"]["kinds"] == ["tube"]
    assert painted.describe()["overlay"]["test_rates"] == {"benign lesion": 0.5, "malignant lesion": 0.5}
    assert painted.describe()["pixels"] != plain.describe()["pixels"]
    assert set(np.unique(painted.pixels(painted.part("test")[0]).artefact)) <= {0, Artefact.TUBE}


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rates must give classes probabilities between 0 and 1"):
        Overlay({"benign": 1.2})
    with pytest.raises(ValueError, match="test_rates must give"):
        Overlay({"benign": 0.2}, test_rates={})
    with pytest.raises(ValueError, match="kinds must name one or more of"):
        Overlay(ALWAYS, kinds=["tattoo"])
    with pytest.raises(ValueError, match="seed must not be negative"):
        Overlay(ALWAYS, seed=-1)
    with pytest.raises(ValueError, match="no class is named 'malign'; choose of background, benign"):
        Overlay({"malign": 0.2}).flag([], ["background", "benign", "malignant"])
    with pytest.raises(ValueError, match=r"scan: overlays are for grey and colour pictures .* \[1, 4, 4, 4\]"):
        Overlay(ALWAYS).paint(SHOWN, Arrays(np.zeros((1, 4, 4, 4), np.float32)))
    with pytest.raises(ValueError, match="with an overlay the flag is 'overlay', not 'ruler'"):
        ISICDataModule(tmp_path, flag="ruler", overlay=Overlay(ALWAYS))
    with pytest.raises(ValueError, match="flag 'overlay' needs an overlay"):
        ISICDataModule(tmp_path, flag="overlay")


def test_from_the_command_line(tmp_path, save, capsys):
    root = folder(tmp_path / "data", save)
    main([
        "compare", "--data=ImageFolderDataModule", f"--data.root={root}", "--data.table=table.csv",
        "--data.label_column=diagnosis", "--data.class_names=[background, benign, malignant]",
        "--data.overlay.kinds=[ink]", "--data.overlay.rates={benign: 0.0, malignant: 1.0}", "--data.batch_size=4",
        "--steps=1", "--methods=[coarse]", "--accelerator=cpu", "--out=out",
    ])  # fmt: skip
    row = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][0]["metrics"]
    assert all(row[name] is not None for name in ("leakage", "s_global", "auroc_robust"))


def test_real_isic2017(real_data):
    settings = yaml.safe_load((REPOSITORY / "benchmarks" / "isic_overlay.yaml").read_text())["data"]["init_args"]
    overlay = Overlay(**settings["overlay"])
    data = ISICDataModule(real_data("isic2017"), size=settings["size"], task=settings["task"], overlay=overlay)
    train = data.part("train")
    shown = [case for case in train if case.flags["overlay"]]
    assert 0.85 < np.mean([case.flags["overlay"] for case in train if case.label == 2]) < 0.95
    for case in shown[:24]:
        before, after = data.read(case), data.pixels(case)
        painted = after.artefact > 0
        assert painted.sum() > 12
        assert not (painted & (after.mask > 0)).any()
        assert np.array_equal(after.image[:, ~painted], before.image[:, ~painted])
