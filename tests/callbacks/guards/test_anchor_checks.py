"""Anchors that may hold what is to be forgotten are refused, as far as anybody can tell."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from erode.callbacks import ExposureLedger, GradientClipping, OutputPerturbation, Retrain
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.weights import load_weights, save_weights

from two_loaders import TheirModule, pair, trainer_for  # isort: skip

torch.set_num_threads(1)


def data(view):
    source = SyntheticDermoscopy(
        size=32, train_images=12, val_images=2, test_images=2, batch_size=4, fine_fraction=0.5, task="binary"
    )
    source.serve(view)
    return source


def trained(view, folder):
    """Weights that learnt from a view, with their ledger beside them."""
    module = SegmentationModule(num_classes=2)
    trainer_for(folder, ExposureLedger("initialisation", folder=folder), max_steps=2, limit_val_batches=0).fit(
        module, datamodule=data(view)
    )
    return save_weights(module, folder / "weights.safetensors")


OPERATORS = [Retrain, GradientClipping, OutputPerturbation]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda kind: kind.__name__)
def test_an_anchor_that_saw_coarse_masks_is_refused_by_its_ledger(operator, tmp_path):
    anchor = trained("coarse", tmp_path / "anchor")
    with pytest.raises(MisconfigurationException, match="may hold what is to be forgotten, by its own ledger"):
        trainer_for(tmp_path, operator(anchor=anchor), max_steps=12, max_epochs=-1).fit(
            SegmentationModule(num_classes=2), datamodule=data("retain")
        )


@pytest.mark.parametrize("history", ["initialisation", None])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda kind: kind.__name__)
def test_without_a_split_all_that_was_marked_counts_and_what_nobody_knows(operator, history, tmp_path):
    """Somebody's own loader of retained data tells no images that are to be forgotten."""
    module, keeper = SegmentationModule(num_classes=2), ExposureLedger(history, folder=tmp_path / "anchor")
    trainer_for(tmp_path, keeper, max_steps=2, limit_val_batches=0).fit(module, datamodule=data("coarse"))
    anchor = save_weights(module, tmp_path / "anchor" / "weights.safetensors")
    retained = data("retain")
    retained.prepare_data()
    retained.setup("fit")
    why = "it saw FORGET of" if history else "its history is unknown"
    with pytest.raises(MisconfigurationException, match=f"by its own ledger .*{why}"):
        trainer_for(tmp_path, operator(anchor=anchor), max_steps=12, max_epochs=-1).fit(
            SegmentationModule(num_classes=2), retained.train_dataloader()
        )


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda kind: kind.__name__)
def test_one_that_saw_the_retain_view_alone_is_taken(operator, tmp_path):
    made = operator(anchor=trained("retain", tmp_path / "anchor"))
    trainer_for(tmp_path, made, max_steps=12, max_epochs=-1, limit_val_batches=0).fit(
        SegmentationModule(num_classes=2), datamodule=data("retain")
    )
    assert made.released


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda kind: kind.__name__)
def test_the_trained_weights_are_no_anchor(operator, tmp_path):
    module = TheirModule(norm=False)
    anchor = save_weights(module, tmp_path / "weights.safetensors")
    load_weights(module, anchor)
    with pytest.raises(MisconfigurationException, match="holds the very weights that are to be unlearned"):
        trainer_for(tmp_path, operator(anchor=anchor), max_steps=12).fit(module, pair()["retain"])
