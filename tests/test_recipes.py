"""The recipes of the docs, as a user types them: train to forget, and anchor without labels."""

import json
import sys
from importlib.resources import files

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from erode.cli import main
from erode.masks import ForgetSplit
from erode.requests import ForgetRequest, Level, read_ledger
from erode.weights import read_state

CONFIGS = files("erode.configs")
DATA = ["--config", str(CONFIGS / "data" / "synthetic.yaml")]
MODEL = ["--config", str(CONFIGS / "model" / "unet.yaml")]
SIZES = {"size": 32, "train_images": 16, "val_images": 4, "test_images": 2, "batch_size": 4}
SHORT = [
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false", "--trainer.num_sanity_val_steps=0", "--trainer.max_steps=4",
]  # fmt: skip
USUAL = [*DATA, *MODEL, *SHORT, "--data.fine_fraction=0.25", *(f"--data.{k}={v}" for k, v in SIZES.items())]
LEDGER = "--trainer.callbacks+=ExposureLedger"


@pytest.fixture(autouse=True)
def _run_folders_of_its_own(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["erode"])
    monkeypatch.delenv("ERODE_RUN_FOLDER", raising=False)


def test_first_the_retain_view_then_the_coarse_labels(tmp_path, capsys):
    """docs/recipes/train_to_forget.md."""
    main(["fit", *USUAL, "--data.view=retain", LEDGER, "--trainer.callbacks.history=initialisation"])
    first = ["--init_from", "runs/fit-0/weights.safetensors"]
    main(["fit", *USUAL, "--data.view=coarse", *first, LEDGER, "--trainer.callbacks.history=runs/fit-0/ledger.json"])
    split = ForgetSplit.load(tmp_path / "runs" / "fit-1" / "split.json")
    limits = ForgetRequest.of(split).limits
    assert read_ledger(tmp_path / "runs" / "fit-0" / "ledger.json").why_exposed(limits) is None
    assert "saw FORGET" in read_ledger(tmp_path / "runs" / "fit-1" / "ledger.json").why_exposed(limits)

    with pytest.raises(MisconfigurationException, match="would re-initialise what --init_from restored"):
        main(["fit", *USUAL, *first, LEDGER, "--trainer.callbacks.history=initialisation"])

    main(["rewind", "runs", "runs/fit-1/split.json", "runs/answer"])
    assert capsys.readouterr().out.splitlines()[-1] == "runs/answer/weights.safetensors"
    stored = read_state(tmp_path / "runs" / "fit-0" / "weights.safetensors")
    restored = read_state(tmp_path / "runs" / "answer" / "weights.safetensors")
    assert all(torch.equal(restored[name], stored[name]) for name in stored)

    trained = ["--init_from", "runs/fit-1/weights.safetensors"]
    main(["unlearn", *USUAL, *trained, "--config", str(CONFIGS / "unlearn" / "rewind.yaml")])
    release = tmp_path / "runs" / "unlearn-0" / "unlearned"
    record = json.loads((release / "unlearning.json").read_text())
    assert (record["operator"], record["guarantee"], record["steps"]) == ("Rewind", "exact", 4)
    assert record["restored_weights"] == read_ledger(tmp_path / "runs" / "fit-0" / "ledger.json").weights
    ledger = read_ledger(release / "weights.safetensors")
    assert ledger.why_exposed(limits) is None
    assert ledger.weights == record["released_weights"]


def test_an_anchor_without_labels(tmp_path):
    """docs/recipes/label_free_anchor.md."""
    pretraining = ["--config", str(CONFIGS / "pretrain" / "restoration.yaml")]
    sizes = [f"--data.init_args.data.init_args.{name}={value}" for name, value in SIZES.items()]
    main(["fit", *pretraining, *sizes, *SHORT])
    main([
        "anchor", "runs/fit-0/weights.safetensors", "anchors/dermoscopy/anchor.safetensors",
        *MODEL, "--head=[network.model.2.*]",
    ])  # fmt: skip
    anchor = tmp_path / "anchors" / "dermoscopy" / "anchor.safetensors"
    assert set(read_ledger(anchor).exposure.levels.values()) == {Level.IMAGE}
    main(["fit", *USUAL, "--data.view=coarse"])
    retrain = ["--trainer.callbacks+=Retrain", f"--trainer.callbacks.anchor={anchor}", LEDGER]
    main(["unlearn", *USUAL, "--init_from", "runs/fit-1/weights.safetensors", *retrain])
    release = tmp_path / "runs" / "unlearn-0" / "unlearned" / "weights.safetensors"
    split = ForgetSplit.load(release.parent / "split.json")
    assert read_ledger(release).why_exposed(ForgetRequest.of(split).limits) is None
