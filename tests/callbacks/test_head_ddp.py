"""Two processes: the head and its certificate are those of one, and both ranks hold the same noise.

So they are where the process of noisy SGD is learnt, and unlearning counts on where it stands.

The fits run in one process of their own, which forks the ranks: this file, run as a script.
"""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from erode.batch import FIELDS, NO_PRIOR, Role
from erode.callbacks import NewtonStep, NoisyLearning, ProjectedNoisySGD, ResidualCertificate, noisy_learning
from erode.callbacks.noisy_learning import head_digest
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

PROCESS = {"learning_rate": 1.0, "batch_size": 2, "radius": 30.0}


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


def head(folder, devices):
    torch.manual_seed(0)
    encoder = nn.Conv2d(3, 4, 3, padding=1)
    file = save_weights(encoder, folder / f"encoder-{devices}.safetensors")
    return PixelHead(encoder, 4, ridge=RIDGE, encoder_weights=str(file))


def fit(folder, name, devices, module, operator, forgotten=()):
    items = [item(index) for index in range(IMAGES)]
    for index in forgotten:  # its foreground is taken back
        inside = items[index]["mask"] > 0
        items[index]["role"] = torch.where(inside, Role.UNLABELLED, Role.RETAIN).to(torch.uint8)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork", max_steps=1, logger=False, enable_checkpointing=False,
        callbacks=[operator, Digest(name)], enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, DataLoader(items, batch_size=2))


def learn_and_unlearn(folder, devices):
    """Noisy SGD with a secret that can be known, then a request that counts on where it stands."""
    noisy_learning.shared_secret = lambda broadcast, seed=None: b"the same for any number of processes"
    module, learnt = head(folder, devices), folder / f"learnt-{devices}"
    learning = NoisyLearning(epochs=4, sigma=0.05, folder=learnt, **PROCESS)
    fit(folder, "learnt", devices, module, learning)
    save_weights(module, learnt / "weights.safetensors")
    file, out = learnt / "noisy_learning.json", folder / f"unlearnt-{devices}"
    request = ProjectedNoisySGD(IMAGES, 1, epochs=2, learned=file, ridge=RIDGE, seed=1, folder=out, **PROCESS)
    fit(folder, "unlearnt", devices, module, request, forgotten=[4])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, as_script):
    """All fits, of one process and of two."""
    folder = tmp_path_factory.mktemp("runs")
    as_script(__file__, folder)
    return folder


@pytest.mark.parametrize("name", ["learnt", "unlearnt"])
def test_a_process_of_noisy_sgd_stands_where_that_of_one_does(name, runs):
    assert len({(runs / f"{name}-2-{rank}").read_text() for rank in range(2)}) == 1
    one, two = (read_state(runs / f"{name}-{n}" / "weights.safetensors")["network.head"] for n in (1, 2))
    assert float(one.norm()) > 0
    assert torch.allclose(one, two, rtol=0, atol=1e-8)
    stands = [json.loads((runs / f"{name}-{n}" / "noisy_learning.json").read_text()) for n in (1, 2)]
    for n, stand in zip((1, 2), stands, strict=True):
        assert stand.pop("weights") == head_digest((one, two)[n - 1])
    assert stands[0] == stands[1]
    assert len({*stands[0]["images"]}) == IMAGES
    assert stands[0]["epochs"] == {"learnt": 4, "unlearnt": 6}[name]


def test_unlearning_counts_on_it(runs):
    stands = [json.loads((runs / f"{name}-2" / "noisy_learning.json").read_text()) for name in ("learnt", "unlearnt")]
    changed = [i for i, (old, new) in enumerate(zip(*(s["images"] for s in stands), strict=True)) if old != new]
    assert changed == [4]
    mechanism = json.loads((runs / "unlearnt-2" / "certificate.json").read_text())["mechanism"]
    assert (mechanism["trained_epochs"], mechanism["start"], mechanism["changed"]) == (4, 0.0, 1)
    assert stands[1]["carried"] > 0


def test_two_processes_equal_one(runs):
    for name in OPERATORS:
        assert len({(runs / f"{name}-2-{rank}").read_text() for rank in range(2)}) == 1
        one, two = (read_state(runs / f"{name}-{n}" / "weights.safetensors")["network.head"] for n in (1, 2))
        assert float(one.norm()) > 0
        assert torch.allclose(one, two, rtol=0, atol=1e-8), name
        steps = {
            json.loads((runs / f"{name}-{n}" / "certificate.json").read_text())["account"]["steps"] for n in (1, 2)
        }
        assert len(steps) == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    for world in (1, 2):
        for operator, make in OPERATORS.items():
            fit(place, operator, world, head(place, world), make(place / f"{operator}-{world}"))
        learn_and_unlearn(place, world)
