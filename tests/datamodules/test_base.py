"""Which labels a loader serves, that forgotten ones never get through, and splits that can be read back."""

import dataclasses

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy import stats

from erode.batch import NO_PRIOR, Role, check_batch
from erode.callbacks import FineTune, Retrain
from erode.datamodules import Arrays, Case, ImageFolderDataModule, MaskDataModule, SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.masks import BoundingBox, DiskDilation, ForgetSplit, View
from erode.weights import weights_digest

SMALL = {"size": 32, "train_images": 24, "val_images": 6, "test_images": 5, "batch_size": 4, "fine_fraction": 0.25}


def synthetic(**options):
    return SyntheticDermoscopy(**{**SMALL, "coarsening": DiskDilation(4), **options})


def items(data, part="train"):
    dataset = data.dataset(part)
    return {item["id"]: item for item in map(dataset.__getitem__, range(len(dataset)))}


def equal(one, other):
    same = {torch.Tensor: torch.equal, str: str.__eq__, dict: dict.__eq__}
    return one.keys() == other.keys() and all(same[type(one[key])](one[key], other[key]) for key in one)


class Tampered(MaskDataModule):
    """Another DataModule's cases, of which those with coarse masks alone hide other pixels inside the coarse region.

    What is replaced there: the fine mask, by any other that the same coarse mask could come from.
    """

    def __init__(self, source, **options):
        super().__init__(**options)
        self.source = source
        self.hidden = frozenset(source.split.coarse)

    @property
    def class_names(self):
        return self.source.class_names

    def cases(self):
        return self.source.cases()

    def read(self, case):
        arrays = self.source.read(case)
        coarse = self.source.coarsening(arrays.mask)
        if case.id not in self.hidden or case.part != "train":
            return dataclasses.replace(arrays, coarse=coarse)
        other = np.where(np.random.default_rng(0).random(coarse.shape) < 0.3, coarse, 0)
        return dataclasses.replace(arrays, mask=other, coarse=coarse)


# Views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coarsening", [DiskDilation(4), BoundingBox(padding=2)])
def test_each_view_serves_what_theory_says(coarsening):
    data = synthetic(coarsening=coarsening)
    truth = {case.id: data.read(case).mask for case in data.part("train")}
    fine = set(data.split.fine)
    assert len(fine) == 6
    for view in View:
        data.serve(view)
        served = items(data)
        assert served.keys() == (fine if view is View.FINE_SUBSET else truth.keys())
        for name, item in served.items():
            mask = torch.from_numpy(truth[name])
            coarse = torch.from_numpy(coarsening(truth[name]))
            assert torch.equal(item["coarse"], coarse)
            if view is View.COARSE:
                assert torch.equal(item["mask"], coarse)
                forgotten = (coarse > 0) & (mask == 0) if name in fine else coarse > 0
                assert torch.equal(item["role"] == Role.FORGET, forgotten)
                assert bool((item["role"][~forgotten] == Role.RETAIN).all())
            elif view is View.RETAIN and name not in fine:
                assert torch.equal(item["role"] == Role.UNLABELLED, coarse > 0)
                assert torch.equal(item["prior"] != NO_PRIOR, coarse > 0)
                assert not bool(item["mask"].any())
            else:
                assert torch.equal(item["mask"], mask)
                forgotten = (coarse > 0) & (name not in fine)
                assert torch.equal(item["role"] == Role.FORGET, forgotten)
                assert bool((item["role"][~forgotten] == Role.RETAIN).all())
                assert bool((item["prior"] == NO_PRIOR).all())


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_is_always_fine(part):
    for view in View:
        data = synthetic(view=view)
        for case in data.part(part):
            item = items(data, part)[case.id]
            assert torch.equal(item["mask"], torch.from_numpy(data.read(case).mask))
            assert bool((item["role"] == Role.RETAIN).all())


def test_batches_keep_the_contract():
    for view in View:
        data = synthetic(view=view)
        for part in ("train", "val", "test", "predict"):
            for batch in getattr(data, f"{part}_dataloader")():
                check_batch(batch, num_classes=3)


def test_the_retain_view_is_blind_inside_coarse_regions():
    """Fine masks of C may say anything: what is served, the prior and the trained weights stay the same to the bit."""
    source = synthetic()
    options = {"coarsening": source.coarsening, "batch_size": 4, "fine_fraction": 0.25}
    honest, tampered = Tampered(source, **options), Tampered(source, **options)
    honest.hidden = frozenset()
    assert honest.split.digest == tampered.split.digest
    assert any(not np.array_equal(honest.read(c).mask, tampered.read(c).mask) for c in source.part("train"))
    released = []
    for data in (honest, tampered):
        pl.seed_everything(1, verbose=False)
        module = SegmentationModule(num_classes=3, class_names=source.class_names)
        pl.Trainer(
            accelerator="cpu", devices=1, max_steps=4, logger=False, enable_checkpointing=False, callbacks=[Retrain()],
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=f"{len(released)}",
        ).fit(module, datamodule=data)  # fmt: skip
        assert data.view is View.COARSE  # as before the operator's run
        data.serve(View.RETAIN)
        released.append(weights_digest(module))
    one, other = items(honest), items(tampered)
    assert all(equal(one[name], other[name]) for name in one)
    assert released[0] == released[1]


def test_an_operator_changes_what_is_served_for_its_own_run(tmp_path):
    data = synthetic()
    assert (items(data)[data.split.coarse[0]]["role"] == Role.FORGET).any()
    served = set()

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            served.update(batch["id"])

    pl.Trainer(
        accelerator="cpu", devices=1, max_steps=9, logger=False, enable_checkpointing=False,
        callbacks=[FineTune(), Watch()],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(SegmentationModule(num_classes=3), datamodule=data)  # fmt: skip
    assert served
    assert served <= set(data.split.fine)
    assert data.view is View.COARSE


# Splits ----------------------------------------------------------------------------------------------------------


def test_a_split_is_read_back(tmp_path):
    drawn = synthetic(split_seed=4)
    path = drawn.split.save(tmp_path / "split.json")
    read = synthetic(split_seed=0, fine_fraction=0.5, split_file=path)
    assert read.split == drawn.split
    assert synthetic(split_seed=0).split != drawn.split
    read.serve("fine_subset")
    assert items(read).keys() == set(drawn.split.fine)


def test_a_split_of_other_data_is_refused(tmp_path):
    path = synthetic(train_images=20).split.save(tmp_path / "split.json")
    with pytest.raises(ValueError, match=r"split\.json and the training images differ in 4 ids, e\.g\. train-00020"):
        synthetic(split_file=path).setup("fit")


def test_the_split_keeps_the_share_of_each_class_and_flag():
    data = SyntheticDermoscopy(size=32, train_images=200, fine_fraction=0.25)
    fine = set(data.split.fine)
    cases = data.part("train")
    for stratum in {(case.label, case.flags["any"]) for case in cases}:
        members = [case.id in fine for case in cases if (case.label, case.flags["any"]) == stratum]
        assert sum(members) == pytest.approx(len(members) / 4, abs=1)


@pytest.mark.parametrize(
    ("fraction", "why"), [(0, "fine set empty"), (1, "nothing to forget"), (0.99, "nothing to forget")]
)
def test_a_fraction_without_two_sides_is_refused(fraction, why):
    with pytest.raises(ValueError, match=f"fine_fraction = {fraction}.*{why}"):
        synthetic(fine_fraction=fraction).setup("fit")


def test_another_draw_is_another_prior():
    data = synthetic(view=View.RETAIN)
    prior, first = data.prior, items(data)
    data.redraw_split(1)
    assert data.prior is not prior
    assert any(not torch.equal(first[name]["role"], item["role"]) for name, item in items(data).items())
    data.redraw_split(0)
    assert all(equal(first[name], item) for name, item in items(data).items())


def test_other_coarse_masks_leave_nothing_of_the_old_ones():
    data, other = synthetic(view=View.RETAIN), synthetic(view=View.RETAIN, coarsening=BoundingBox(2))
    items(data), data.prior, data.test_dataloader()
    data.recoarsen(BoundingBox(2))
    assert data.split.digest == other.split.digest
    for part in ("train", "test"):
        for one, two in zip(data.dataset(part), other.dataset(part), strict=True):
            assert equal(one, two)


def test_images_with_coarse_masks_alone_are_the_forget_side(tmp_path, save):
    names = [f"scan{number:02d}" for number in range(16)]
    for number, name in enumerate(names):
        mask = np.zeros((16, 16))
        mask[4 : 8 + number % 3, 5:9] = 255
        coarse = np.zeros((16, 16))
        coarse[3 : 10 + number % 3, 4:11] = 255
        save(tmp_path / "images" / f"{name}.png", np.full((16, 16), 90 + number))
        if number % 4:
            save(tmp_path / "coarse" / f"{name}.png", coarse)
        else:
            save(tmp_path / "masks" / f"{name}.png", mask)
    for number in (1, 2, 5, 6, 9, 10):  # these have both, so their fine masks may be used
        mask = np.zeros((16, 16))
        mask[5:8, 5:9] = 255
        save(tmp_path / "masks" / f"{names[number]}.png", mask)
    data = ImageFolderDataModule(
        tmp_path, coarse_masks="coarse", coarsening=BoundingBox(padding=1), view=View.RETAIN, batch_size=2
    )
    data.prepare_data()
    data.setup("fit")
    only_coarse = {names[number] for number in (3, 7, 11, 13, 14, 15)}
    assert set(data.split.coarse) == only_coarse
    for name, item in items(data).items():
        assert bool((item["role"] == Role.UNLABELLED).any()) == (name in only_coarse)
        assert int((item["coarse"] > 0).sum()) >= 20


# Sampling and records --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "share"), [(0.0, 0.2), (0.5, 1 / 3), (1.0, 0.5)])
def test_rare_classes_are_drawn_as_often_as_asked(degree, share):
    """12 malignant and 48 benign images: 12^(1-d) to 48^(1-d)."""
    data = synthetic(train_images=60, prevalence=0.2, class_balance=degree)
    torch.manual_seed(0)
    drawn = torch.cat([batch["label"] for _ in range(20) for batch in data.train_dataloader()])
    assert stats.binomtest(int((drawn == 2).sum()), len(drawn), share).pvalue > 1e-3


def test_an_epoch_shows_every_image_once_but_an_incomplete_batch():
    loader = synthetic(train_images=23).train_dataloader()
    shown = [name for batch in loader for name in batch["id"]]
    assert len(shown) == len(set(shown)) == 20
    assert len([name for batch in synthetic(batch_size=64).train_dataloader() for name in batch["id"]]) == 24


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"size": 48},
        {"train_images": 25},
        {"train_correlation": 0.5},
        {"test_correlation": -0.8},
        {"coarsening": DiskDilation(5)},
        {"coarsening": BoundingBox(padding=4)},
        {"fine_fraction": 0.5},
        {"position_prior": False},
        {"class_balance": 0.5},
        {"batch_size": 8},
        {"flips": False},
        {"flag": "ruler"},
        {"transform": lambda item: item},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_record_tells_other_data_apart(change):
    assert synthetic().describe() == synthetic().describe()
    assert synthetic(**change).describe() != synthetic().describe()


def test_a_record_tells_replaced_files_apart(tmp_path, save):
    for number in range(12):
        save(tmp_path / "images" / f"{number}.png", np.full((16, 16), 100))
        save(tmp_path / "masks" / f"{number}.png", np.eye(16) * 255)
    before = ImageFolderDataModule(tmp_path).describe()
    assert ImageFolderDataModule(tmp_path).describe() == before
    save(tmp_path / "masks" / "7.png", np.tri(16) * 255)
    assert ImageFolderDataModule(tmp_path).describe() != before


def test_data_is_read_once_before_training_and_only_once():
    reads = []

    class Counting(MaskDataModule):
        class_names = ("background", "lesion")  # type: ignore[assignment]

        def cases(self):
            return [Case(f"{part} {n}", 1, part) for part in ("train", "val", "test") for n in range(4)]

        def read(self, case):
            reads.append(case.id)
            return Arrays(np.zeros((1, 8, 8), np.float32), mask=np.eye(8, dtype=np.int64))

    data = Counting(coarsening=DiskDilation(1))
    data.prepare_data()
    data.prepare_data()
    assert len(reads) == len(set(reads)) == 12
    assert isinstance(data.split, ForgetSplit)


def _overwrite(item):
    for key in ("image", "mask", "role"):
        item[key].fill_(0)  # as MONAI's dropouts write into what they are given
    return item


def test_a_transform_that_writes_in_place_does_not_reach_what_is_kept():
    data = synthetic(transform=_overwrite)
    untouched = items(synthetic())
    items(data)
    data.transform = None
    for view in (View.FINE, View.COARSE):
        data.serve(view)
        for name, item in items(data).items():
            assert torch.equal(item["image"], untouched[name]["image"])
    data = synthetic(transform=_overwrite)
    dataset = data.dataset("train")
    dataset[0]
    dataset._transform = None
    assert torch.equal(dataset[0]["mask"], synthetic().dataset("train")[0]["mask"])


def test_data_with_another_split_file_describe_themselves_otherwise(tmp_path):
    files = []
    for seed in (0, 1):
        files.append(synthetic(split_seed=seed).split.save(tmp_path / f"{seed}.json") or tmp_path / f"{seed}.json")
    one, other = (synthetic(split_file=file).describe() for file in files)
    assert one != other
    assert {**one, "split": None} == {**other, "split": None}
