"""Two processes: the head and its certificate are those of one, and both ranks hold the same noise.

The fits run in one process of their own, which forks the ranks: this file, run as a script.
"""

import json
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from erode.batch import FIELDS, NO_PRIOR
from erode.callbacks import NewtonStep, ProjectedNoisySGD, ResidualCertificate
from erode.lightning_modules import PixelHead
from erode.weights import read_state, save_weights, weights_digest

IMAGES, RIDGE = 7, 0.05  # an odd number: shares differ
OPERATORS = {
    "residual": lambda folder: ResidualCertificate(ridge=RIDGE, tolerance=1e-9, seed=1, folder=folder),
    "newton": lambda folder: NewtonStep(IMAGES, IMAGES, ridge=RIDGE, seed=1, folder=folder),
    "sgd": lambda folder: ProjectedNoisySGD(
        IMAGES, 1, ridge=RIDGE, batch_size=2, epochs=50, radius=3.0, seed=1, folder=folder
    ),
}
"""With a seed, so that runs can be compared; such runs are not certified."""


class Digest(pl.Callback):
    """Each rank leaves a digest of its weights."""

    def __init__(self, name):
        self.name = name

    def on_train_end(self, trainer, module):
        path = Path(trainer.default_root_dir) / f"{self.name}-{trainer.world_size}-{trainer.global_rank}"
        path.write_text(weights_digest(module))


def item(index):
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index))
    mask = (image[0] > 0.6).long()
    pixels = {"mask": mask, "coarse": mask.clone(), "prior": torch.full((8, 8), NO_PRIOR)}
    whole = {"label": torch.tensor(1), "flag": torch.tensor(0), "counted": torch.tensor(True)}
    blank = {key: torch.zeros(8, 8, dtype=FIELDS[key].dtype) for key in ("role", "artefact")}
    return {"image": image, **pixels, **blank, **whole, "id": f"case {index}"}


def fit(folder, name, devices):
    torch.manual_seed(0)
    encoder = nn.Conv2d(3, 4, 3, padding=1)
    file = save_weights(encoder, folder / f"encoder-{name}-{devices}.safetensors")
    data = DataLoader([item(index) for index in range(IMAGES)], batch_size=2)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork", max_steps=1, logger=False, enable_checkpointing=False,
        callbacks=[OPERATORS[name](folder / f"{name}-{devices}"), Digest(name)], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(PixelHead(encoder, 4, ridge=RIDGE, encoder_weights=str(file)), data)


def test_two_processes_equal_one(tmp_path):
    run = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    for name in OPERATORS:
        assert len({(tmp_path / f"{name}-2-{rank}").read_text() for rank in range(2)}) == 1
        one, two = (read_state(tmp_path / f"{name}-{n}" / "weights.safetensors")["network.head"] for n in (1, 2))
        assert float(one.norm()) > 0
        assert torch.allclose(one, two, rtol=0, atol=1e-8), name
        steps = {
            json.loads((tmp_path / f"{name}-{n}" / "certificate.json").read_text())["account"]["steps"] for n in (1, 2)
        }
        assert len(steps) == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    for operator in OPERATORS:
        for world in (1, 2):
            fit(Path(sys.argv[1]), operator, world)
