"""NegGrad-Seg: what it reduces to, what it does to the ring, and what it refuses."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from monai.networks.nets import DynUNet

from erode.callbacks import FineTune, NegGradSeg
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.losses import RoleLoss
from erode.masks import DiskDilation
from erode.weights import weights_digest

torch.set_num_threads(1)


def data():
    return SyntheticDermoscopy(
        size=32, train_images=32, val_images=4, test_images=8, batch_size=8, fine_fraction=0.5,
        coarsening=DiskDilation(4),
    )  # fmt: skip


def fit(folder, module, *callbacks, steps=5):
    pl.seed_everything(1, verbose=False)
    pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        callbacks=[*callbacks], enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        limit_val_batches=0,
    ).fit(module, datamodule=data())  # fmt: skip
    return module


def copy_of(module):
    copy = SegmentationModule(num_classes=3, loss=RoleLoss(dice=0))
    copy.load_state_dict(module.state_dict())
    return copy


def test_weight_one_is_fine_tuning_with_cross_entropy(tmp_path):
    start = SegmentationModule(num_classes=3)
    tuned = fit(tmp_path / "tuned", copy_of(start), FineTune())
    negative = fit(tmp_path / "negative", copy_of(start), NegGradSeg("reweighted", ring_weight=1))
    for one, other in zip(tuned.parameters(), negative.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert weights_digest(negative) != weights_digest(start)


def test_both_readings_push_harder_against_the_ring(tmp_path):
    """From one coarse-trained start and by as many steps, less foreground is left on the ring than without the push."""
    pl.seed_everything(0, verbose=False)
    coarse = fit(tmp_path / "coarse", SegmentationModule(num_classes=3), steps=60)
    operators = {
        "fine-tuning": NegGradSeg("reweighted", ring_weight=1),
        "reweighted": NegGradSeg("reweighted", ring_weight=5),
        "consistent pixels alone": NegGradSeg("ascent", beta=1, collapse_ratio=0),
        "ascent": NegGradSeg("ascent", beta=0.8, collapse_ratio=0),
    }
    batch = next(iter(data().test_dataloader()))
    ring = (batch["coarse"] > 0) & (batch["mask"] == 0)
    left = {}
    for name, operator in operators.items():
        module = fit(tmp_path / name, copy_of(coarse), operator, steps=8).eval()
        with torch.inference_mode():
            left[name] = 1 - module(batch["image"]).softmax(1)[:, 0][ring].mean().item()
        record = json.loads((tmp_path / name / "unlearned" / "unlearning.json").read_text())
        assert record["view"] == "fine_subset"
        assert record["settings"]["reading"] == operator.reading
    assert left["reweighted"] < left["fine-tuning"] - 0.05
    assert left["ascent"] < left["consistent pixels alone"] - 0.05


def test_networks_with_deep_supervision_are_unlearned_too(tmp_path):
    heads = {"deep_supervision": True, "deep_supr_num": 2}
    network = DynUNet(2, 3, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 8, 8], **heads)
    module = SegmentationModule(network, num_classes=3)
    before = weights_digest(module)
    for reading in ("reweighted", "ascent"):
        fit(tmp_path / reading, module, NegGradSeg(reading), steps=2)
    assert weights_digest(module) != before


class ChannelFirst(SegmentationModule):
    """Its masks are [B, 1, H, W], as MONAI's transforms leave them."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {**batch, **{key: batch[key][:, None] for key in ("mask", "coarse")}}


@pytest.mark.parametrize("reading", ["reweighted", "ascent"])
def test_masks_with_a_channel_axis_are_the_same_masks(reading, tmp_path):
    start = SegmentationModule(num_classes=3).state_dict()
    digests = set()
    for kind in (SegmentationModule, ChannelFirst):
        module = kind(num_classes=3)
        module.load_state_dict(start)
        digests.add(weights_digest(fit(tmp_path / kind.__name__, module, NegGradSeg(reading))))
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ring_weight": 0}, "ring_weight must be positive, got 0"),
        ({"beta": 0}, r"beta must lie in \(0, 1\], got 0"),
        ({"beta": 1.5}, r"beta must lie in \(0, 1\], got 1.5"),
        ({"collapse_ratio": 1}, r"collapse_ratio must lie in \[0, 1\), got 1"),
        ({"check_every": 0}, "check_every must be at least 1 batch"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NegGradSeg(**arguments)


def test_manual_optimisation_is_refused(tmp_path):
    class Manual(SegmentationModule):
        def __init__(self):
            super().__init__(num_classes=3)
            self.automatic_optimization = False

    with pytest.raises(MisconfigurationException, match=r"Manual optimises manually.*automatic_optimization = True"):
        fit(tmp_path, Manual(), NegGradSeg())
