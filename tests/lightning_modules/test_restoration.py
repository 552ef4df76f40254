"""Pretraining on images alone: no mask ever reaches it, it learns to restore, and its weights move into a segmenter."""

import functools
import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from monai.networks.nets import SegResNet
from torch.utils.data import DataLoader

from erode.callbacks import ExposureLedger, Retrain
from erode.datamodules import Arrays, ImagesOnly, SyntheticDermoscopy
from erode.lightning_modules import RestorationModule, SegmentationModule
from erode.requests import ForgetRequest, Level, read_ledger
from erode.requests.anchor import make_anchor
from erode.weights import read_state, save_weights, weights_digest

SMALL = {"size": 32, "train_images": 12, "val_images": 4, "test_images": 2, "batch_size": 4}


class Poisoned(SyntheticDermoscopy):
    """The same images under other masks and classes."""

    def read(self, case):
        arrays = super().read(case)
        mask = np.zeros_like(arrays.mask)
        mask[:2, :2] = case.label
        return Arrays(arrays.image, mask=mask, artefact=arrays.artefact)


def fit(module, data, folder, *callbacks, steps=3, **options):
    pl.seed_everything(5, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, callbacks=list(callbacks), logger=False,
        default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loaders = {"datamodule": data} if isinstance(data, pl.LightningDataModule) else {"train_dataloaders": data}
    trainer.fit(module, **loaders, **options)
    return module


def pretrained(folder, data=None):
    module = fit(RestorationModule(), data or ImagesOnly(SyntheticDermoscopy(**SMALL)), folder,
                 ExposureLedger("initialisation"))  # fmt: skip
    save_weights(module, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def segmenter(num_classes):
    return functools.partial(SegmentationModule, num_classes=num_classes)


def test_masks_never_reach_it(tmp_path):
    """Other masks, the same bits; also where a loader serves masks beside the images."""
    clean, poisoned = SyntheticDermoscopy(**SMALL), Poisoned(**SMALL)
    weights = [pretrained(tmp_path / name, ImagesOnly(data)) for name, data in (("a", clean), ("b", poisoned))]
    assert read_ledger(weights[0]).weights == read_ledger(weights[1]).weights

    digests = []
    for value in (0, 1):
        items = [{**clean.dataset("train")[i]} for i in range(8)]
        for item in items:
            item |= {key: torch.full_like(item[key], value) for key in ("mask", "coarse", "role", "label")}
        torch.manual_seed(0)
        digests.append(weights_digest(fit(RestorationModule(), DataLoader(items, batch_size=4), tmp_path)))
    assert digests[0] == digests[1]


def test_the_ledger_shows_images_and_nothing_else(tmp_path):
    ledger = read_ledger(pretrained(tmp_path))
    assert set(ledger.exposure.levels.values()) == {Level.IMAGE}
    split = SyntheticDermoscopy(**SMALL).split
    assert ledger.why_exposed(ForgetRequest.of(split).limits) is None
    assert "saw IMAGE" in ledger.why_exposed(ForgetRequest.of(split.coarse, "image").limits)


def test_it_learns_to_restore():
    torch.manual_seed(0)
    image = torch.rand(4, 3, 1, 1).expand(4, 3, 16, 16).contiguous()
    module = RestorationModule(patch=6)
    module.log = lambda *_, **__: None
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        losses.append(module.training_step({"image": image}, 0))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_corruption_follows_the_seed_and_spares_the_batch():
    module, image = RestorationModule(patch=8), torch.rand(2, 3, 32, 32)
    before = image.clone()
    assert torch.equal(module.spoil(image, 1), module.spoil(image, 1))
    assert not torch.equal(module.spoil(image, 1), module.spoil(image, 2))
    assert not torch.equal(module.spoil(image, 1), image)
    assert torch.equal(image, before)
    volume = RestorationModule(spatial_dims=3, in_channels=1, patch=4)
    assert volume(volume.spoil(torch.rand(1, 1, 16, 16, 16), 0)).shape == (1, 1, 16, 16, 16)


@pytest.mark.parametrize("classes", [2, 3])
def test_all_but_the_head_moves_into_a_segmenter(tmp_path, classes):
    weights = pretrained(tmp_path / "pre")
    head = None if classes == 2 else ["network.model.2.*"]
    path = make_anchor(weights, tmp_path / "anchor" / "anchor.safetensors", segmenter(classes), head, seed=1)
    body, moved = read_state(weights), read_state(path)
    fresh = json.loads((path.parent / "anchor.json").read_text())["fresh"]
    assert fresh
    assert all(name.startswith("network.model.2.") for name in fresh)
    assert all(torch.equal(moved[name], body[name]) for name in moved if name not in fresh)
    weights_of_both = [n for n in fresh if n in body and body[n].shape == moved[n].shape and body[n].ndim > 1]
    assert not [n for n in weights_of_both if torch.equal(body[n], moved[n])]  # the pretrained head is not taken
    exposed = read_ledger(path).exposed_tensors({"train-00000": Level.IMAGE})
    assert set(exposed) == set(moved) - set(fresh)


def test_it_is_an_anchor_for_retraining(tmp_path):
    data = SyntheticDermoscopy(**SMALL, fine_fraction=0.25)
    path = make_anchor(
        pretrained(tmp_path / "pre"), tmp_path / "anchor" / "a.safetensors", segmenter(3), ["network.model.2.*"]
    )
    module = SegmentationModule(num_classes=3, bootstrap=0)
    fit(module, data, tmp_path / "run", Retrain(anchor=path), ExposureLedger())
    record = json.loads((tmp_path / "run" / "unlearned" / "unlearning.json").read_text())
    ledger = read_ledger(tmp_path / "run" / "unlearned" / "weights.safetensors")
    assert record["anchor_weights"] == read_ledger(path).weights
    assert ledger.why_exposed(ForgetRequest.of(data.split).limits) is None
    assert ledger.weights == record["released_weights"]


def test_anchors_that_are_none_are_refused(tmp_path):
    weights = pretrained(tmp_path / "pre")
    out = tmp_path / "anchor" / "anchor.safetensors"
    with pytest.raises(ValueError, match="every tensor fits"):
        make_anchor(weights, out, segmenter(3))
    with pytest.raises(ValueError, match="fit no tensor"):
        make_anchor(weights, out, segmenter(3), ["decoder.*"])
    with pytest.raises(ValueError, match="add it to head="):
        make_anchor(weights, out, segmenter(2), ["*.0.*bias"])
    with pytest.raises(ValueError, match="share no tensor"):
        make_anchor(weights, out, lambda: SegmentationModule(SegResNet(2, 8, 3, 2)))
    with pytest.raises(FileExistsError, match="already"):
        make_anchor(weights, tmp_path / "pre" / "anchor.safetensors", segmenter(2))


def test_pretraining_without_a_ledger_makes_an_anchor_of_unknown_history(tmp_path):
    save_weights(RestorationModule(), tmp_path / "pre" / "weights.safetensors")
    path = make_anchor(tmp_path / "pre" / "weights.safetensors", tmp_path / "anchor" / "a.safetensors", segmenter(2))
    assert json.loads((path.parent / "anchor.json").read_text())["history_known"] is False
    assert read_ledger(path).exposure.unknown


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="patch must be at least 2"):
        RestorationModule(patch=1)
    with pytest.raises(ValueError, match="as many channels and pixels"):
        RestorationModule(torch.nn.Conv2d(3, 2, 1)).training_step({"image": torch.zeros(1, 3, 32, 32)}, 0)
