"""Small data: chosen images keep their masks, others get given ones, and evaluation stays as it is."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from erode.datamodules import LabelledSubset, Overlay, SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule


def data():
    return SyntheticDermoscopy(size=32, train_images=12, val_images=4, test_images=4, batch_size=4)


def ids(source):
    return [case.id for case in source.part("train")]


def test_only_chosen_images_are_trained_on_and_all_are_evaluated():
    source = data()
    subset = LabelledSubset(source, ids(source)[:3])
    served = subset.dataset("train")
    assert [case.id for case in served.cases] == ids(source)[:3]
    torch.testing.assert_close(served[1]["mask"], torch.from_numpy(source.read(source.part("train")[1]).mask))
    for part in ("val", "test"):
        assert [case.id for case in subset.part(part)] == [case.id for case in source.part(part)]
    assert len(source.dataset("train")) == 12  # the source serves what it served


def test_a_pseudo_mask_replaces_the_mask_and_the_class():
    source = data()
    benign = next(case.id for case in source.part("train") if case.label == 1)
    mask = np.zeros((32, 32), dtype=np.int64)
    mask[:4] = 2
    other = next(name for name in ids(source) if name != benign)
    item = next(i for i in LabelledSubset(source, [other], {benign: mask}).dataset("train") if i["id"] == benign)
    assert item["label"] == 2
    picture = source.read(next(case for case in source.part("train") if case.id == benign)).image
    torch.testing.assert_close(item["image"], torch.from_numpy(picture))  # not painted anew as a malignant lesion
    torch.testing.assert_close(item["mask"], torch.from_numpy(mask))
    nothing = LabelledSubset(source, [other], {benign: np.zeros_like(mask)}).dataset("train")
    assert {int(i["label"]) for i in nothing if i["id"] == benign} == {0}


def test_it_trains_in_a_trainer():
    source = data()
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(SegmentationModule(num_classes=3), datamodule=LabelledSubset(source, ids(source)[:8]))
    assert trainer.global_step == 2


def test_one_image_is_enough_and_other_labels_are_refused():
    source = data()
    subset = LabelledSubset(source, ids(source)[:1])
    subset.setup("fit")
    assert len(subset.train_dataloader()) == 1
    subset.serve("fine")
    with pytest.raises(ValueError, match="serves fine masks alone, not the view 'retain'"):
        subset.serve("retain")


def test_wrong_ids_are_refused():
    source = data()
    with pytest.raises(ValueError, match="nobody and 0 other ids are no training images"):
        LabelledSubset(source, ["nobody"])
    with pytest.raises(ValueError, match="has a mask already"):
        LabelledSubset(source, ids(source)[:2], {ids(source)[0]: np.zeros((32, 32), dtype=np.int64)})


def test_an_overlay_of_the_data_is_there_too():
    source = SyntheticDermoscopy(
        size=32, train_images=12, val_images=4, test_images=4, overlay=Overlay({"malignant lesion": 1.0})
    )
    blank = np.zeros((32, 32), np.int64)
    subset = LabelledSubset(source, ids(source)[:6], {ids(source)[-1]: blank})
    for case in subset.part("train"):
        assert (subset.pixels(case).artefact > 0).any() == case.flags["overlay"]
    assert 1 in [int(subset.dataset("train")[index]["flag"]) for index in range(6)]
