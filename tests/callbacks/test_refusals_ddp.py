"""Nothing is released that one of two processes refuses, and both say so.

The fits run in one process of their own, which forks the ranks: this file, run as a script.
"""

import json
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, loader

from erode.callbacks import Retrain


class WritesOnOne(pl.Callback):
    """Writes the weights of process 1 at the end."""

    def on_train_end(self, trainer, module):
        if trainer.global_rank == 1:
            with torch.no_grad():
                next(module.parameters()).add_(1.0)


class Counts(Module):
    """Counts in a buffer on process 1, which Retrain does not release."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def on_train_epoch_end(self):
        self.count += self.trainer.global_rank


class Telling(Retrain):
    """Each rank leaves why it broke off, and waits for the other before it does."""

    def on_train_end(self, trainer, pl_module):
        try:
            super().on_train_end(trainer, pl_module)
        except MisconfigurationException as refusal:
            place = Path(trainer.default_root_dir)
            (place / f"{trainer.global_rank}.txt").write_text(str(refusal))
            patience = time.monotonic() + 20
            while len(list(place.glob("*.txt"))) < 2 and time.monotonic() < patience:
                time.sleep(0.05)
            raise


RUNS = {"writes": (Module, [WritesOnOne()]), "counts": (Counts, [])}


def fit(folder, name):
    make, callbacks = RUNS[name]
    folder = folder / name
    folder.mkdir()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=1, logger=False, enable_checkpointing=False,
        callbacks=[*callbacks, Telling(folder=folder / "unlearned")], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    try:
        trainer.fit(make(), loader())
    except Exception:
        (folder / "raised").touch()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, as_script):
    folder = tmp_path_factory.mktemp("ranks")
    as_script(__file__, folder)
    return folder


def record(runs, name):
    return json.loads((runs / name / "unlearned" / "unlearning.json").read_text())


def test_a_refusal_of_one_process_is_one_of_both(runs):
    own, others = ((runs / "writes" / f"{rank}.txt").read_text() for rank in (1, 0))
    assert "something else than an optimiser wrote the weights" in own
    assert "process 1 refused the run" in others
    assert (runs / "writes" / "raised").exists()
    assert not (runs / "writes" / "unlearned" / "weights.safetensors").exists()


def test_what_one_process_would_not_release_is_not_released(runs):
    assert not (runs / "counts" / "raised").exists()
    assert "process 1 refused the run" in record(runs, "counts")["why"]
    assert not (runs / "counts" / "unlearned" / "weights.safetensors").exists()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for run in RUNS:
        fit(Path(sys.argv[1]), run)
