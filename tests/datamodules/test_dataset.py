"""Items, copies that do not count, and augmentations that move every map alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Compose, RandFlipd, RandRotate90d
from torch.utils.data import default_collate

from erode.batch import UNKNOWN_ARTEFACT, UNKNOWN_FLAG, check_batch
from erode.datamodules import Arrays, Case, MaskDataset, SyntheticDermoscopy, random_flips
from erode.datamodules.dataset import PIXEL_KEYS, EvaluationSampler
from erode.masks import DiskDilation, View


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_every_item_counts_once_and_every_process_does_as_much(size, world, shuffle):
    """Also with more processes than items, where some see nothing but copies; in order, or in that of an epoch."""
    samplers = [EvaluationSampler(range(size), world, rank, shuffle, seed=3) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert len({len(share) for share in shares}) == 1
    indices = [index for share in shares for index in share]
    assert sorted(index for index in indices if index >= 0) == list(range(size))
    assert all(0 <= -1 - index < size for index in indices if index < 0)


def test_a_copy_is_the_item_but_for_its_count():
    dataset = SyntheticDermoscopy(size=32, train_images=4, val_images=3, test_images=2).dataset("val")
    for index in range(len(dataset)):
        item, copy = dataset[index], dataset[-1 - index]
        assert (bool(item["counted"]), bool(copy["counted"])) == (True, False)
        assert item["id"] == copy["id"]
        assert all(torch.equal(item[key], copy[key]) for key in PIXEL_KEYS)


def test_what_nobody_annotated_is_marked_unknown():
    arrays = Arrays(np.zeros((1, 8, 8), np.float32), mask=np.eye(8, dtype=np.int64))
    case = Case("scan", label=1, part="train")
    item = MaskDataset([case], lambda _: arrays, DiskDilation(1), View.FINE)[0]
    assert item["flag"] == UNKNOWN_FLAG
    assert bool((item["artefact"] == UNKNOWN_ARTEFACT).all())
    check_batch(default_collate([item]), num_classes=2)


def test_images_of_a_group_have_its_number_in_every_part_and_others_their_own():
    def item(id, part, group=""):
        arrays = Arrays(np.zeros((1, 8, 8), np.float32), mask=np.eye(8, dtype=np.int64))
        return MaskDataset([Case(id, 1, part, group=group)], lambda _: arrays, DiskDilation(1), View.FINE)[0]

    items = [item("a", "train", "p"), item("b", "val", "p"), item("c", "val", "q"), item("d", "val"), item("p", "val")]
    numbers = default_collate(items)["group"]
    assert numbers.dtype == torch.int64
    assert bool((numbers >= 0).all())
    assert numbers[0] == numbers[1]
    assert len(numbers.unique()) == 4  # an image called "p" is not the patient "p"
    assert numbers[0] == 6566441841794709830  # and on every machine


def test_a_case_without_any_mask_is_named():
    dataset = MaskDataset(
        [Case("scan 7", 1, "train")], lambda _: Arrays(np.zeros((1, 8, 8), np.float32)), DiskDilation(1), View.COARSE
    )
    with pytest.raises(ValueError, match="scan 7: neither a fine nor a coarse mask"):
        dataset[0]


def test_pixels_are_read_once_unless_told_otherwise():
    for cache, expected in ((True, 1), (False, 3)):
        reads = []

        def read(case, reads=reads):
            reads.append(case.id)
            return Arrays(np.zeros((1, 8, 8), np.float32), mask=np.eye(8, dtype=np.int64))

        dataset = MaskDataset([Case("scan", 1, "train")], read, DiskDilation(1), View.FINE, cache=cache)
        for _ in range(3):
            dataset[0]
        assert len(reads) == expected


# Augmentation ----------------------------------------------------------------------------------------------------


def numbered(size, *spatial):
    """A batch in which every map holds the number of its pixel, so that maps that move apart are seen."""
    pixels = torch.arange(int(np.prod(spatial))).view(spatial).expand(size, *spatial)
    batch = {key: pixels.clone() for key in PIXEL_KEYS if key != "image"}
    return {
        **batch,
        "image": torch.stack([pixels, pixels], dim=1).float(),
        "label": torch.arange(size),
        "id": ["x"] * size,
    }


def together(batch):
    """Whether all maps of a batch still show the same pixel at each place."""
    maps = [batch[key].float() for key in PIXEL_KEYS if key != "image"]
    return all(torch.equal(shown, batch["mask"].float()) for shown in (*maps, *batch["image"].unbind(1)))


shapes = st.one_of(st.tuples(*[st.integers(1, 6)] * 2), st.tuples(*[st.integers(1, 4)] * 3))


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 6), shapes, st.integers(0, 10**6))
def test_flips_move_every_map_alike_and_lose_nothing(size, spatial, seed):
    torch.manual_seed(seed)
    batch = numbered(size, *spatial)
    before = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
    flipped = random_flips(batch)
    assert together(flipped)
    assert all(torch.equal(batch[key], value) for key, value in before.items())  # the batch itself is untouched
    assert torch.equal(flipped["label"], batch["label"])
    for before_, after in zip(batch["mask"], flipped["mask"], strict=True):
        axes = [(), *((axis,) for axis in range(len(spatial))), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
        mirrored = [before_.flip(a) for a in axes if all(axis < len(spatial) for axis in a)]
        assert any(torch.equal(after, image) for image in mirrored)


def test_each_axis_is_flipped_half_of_the_time():
    torch.manual_seed(0)
    flipped = random_flips(numbered(4000, 2, 2))["mask"]
    share = [(flipped[:, 0, 0] == corner).float().mean().item() for corner in range(4)]
    assert share == pytest.approx([0.25] * 4, abs=0.03)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_monai_transforms_keep_masks_where_their_pixels_are(seed):
    """Squares of a bright lesion: wherever the image goes, its masks and roles go."""
    transform = Compose([RandFlipd(PIXEL_KEYS, prob=0.5, spatial_axis=0), RandRotate90d(PIXEL_KEYS, prob=0.9)])
    transform.set_random_state(seed)
    mask = np.zeros((8, 8), np.int64)
    mask[1:3, 4:7] = 1
    arrays = Arrays(np.stack([mask] * 3).astype(np.float32), mask=mask, artefact=mask.astype(np.uint8))
    cases = [Case("scan", 1, "train")]
    plain, moved = (
        MaskDataset(cases, lambda _: arrays, DiskDilation(1), View.RETAIN, transform=t)[0] for t in (None, transform)
    )
    assert torch.equal(moved["artefact"].float(), moved["image"][0])
    assert torch.equal(moved["coarse"] > 0, moved["role"] == 2)
    assert int((moved["coarse"] > 0).sum()) == int((plain["coarse"] > 0).sum())
    check_batch(default_collate([moved]), num_classes=2)
    assert {key: type(value) for key, value in moved.items()} == {key: type(value) for key, value in plain.items()}
