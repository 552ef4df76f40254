"""Fine-tuning is training on the fine images, and nothing more."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging

from erode.callbacks import FineTune
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.masks import View
from erode.weights import weights_digest

torch.set_num_threads(1)


def run(folder, module, data, *callbacks):
    pl.seed_everything(1, verbose=False)
    pl.Trainer(
        accelerator="cpu", devices=1, max_steps=5, logger=False, enable_checkpointing=False, callbacks=[*callbacks],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    ).fit(module, datamodule=data)  # fmt: skip
    return weights_digest(module)


def test_it_is_plain_training_on_the_fine_images(tmp_path):
    def data(view):
        return SyntheticDermoscopy(
            size=32, train_images=24, val_images=4, test_images=2, batch_size=3, fine_fraction=0.25, view=view
        )

    start = SegmentationModule(num_classes=3)
    plain, operated = SegmentationModule(num_classes=3), SegmentationModule(num_classes=3)
    for module in (plain, operated):
        module.load_state_dict(start.state_dict())
    ours = run(tmp_path / "operated", operated, data(View.COARSE), FineTune())  # it asks for the view itself
    assert ours == run(tmp_path / "plain", plain, data(View.FINE_SUBSET))
    record = json.loads((tmp_path / "operated" / "unlearned" / "unlearning.json").read_text())
    assert record["initial_weights"] == weights_digest(start)
    assert record["released_weights"] == ours
    assert (record["guarantee"], record["view"], record["steps"]) == ("approximate", "fine_subset", 5)
    assert "epsilon" not in record


def test_weights_that_are_averaged_are_released_averaged(tmp_path):
    """By the order of callbacks; the other order would release what training ended with."""

    def data():
        return SyntheticDermoscopy(
            size=32, train_images=24, val_images=4, test_images=2, batch_size=3, fine_fraction=0.25
        )

    module = SegmentationModule(num_classes=3)
    run(tmp_path / "right", module, data(), EMAWeightAveraging(decay=0.5), FineTune())
    record = json.loads((tmp_path / "right" / "unlearned" / "unlearning.json").read_text())
    assert record["released_weights"] == weights_digest(module)
    with pytest.raises(MisconfigurationException, match=r"EMAWeightAveraging comes after FineTune.*list it before"):
        run(tmp_path / "wrong", module, data(), FineTune(), EMAWeightAveraging(decay=0.5))
