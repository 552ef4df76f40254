"""Two processes unlearn as one does: the same weights, forget errors and choice. Others stand in files of their own.

The fits run in one process of their own, which forks the ranks: this file, run as a script.
"""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.utils.data import DataLoader, DistributedSampler
from two_loaders import BY_EPOCH, KEYS, TheirModule, squares, trainer_for

from erode.callbacks import (
    Blockwise,
    CFk,
    EUk,
    FineTune,
    GradientClipping,
    ModelClipping,
    NegGradPlus,
    NegGradSeg,
    OutputPerturbation,
    Retrain,
    Scrub,
    ScrubRewind,
)

IMAGES = {"image_key": 0, "fine_key": 1, "coarse_key": 2, "collapse_ratio": 0.0}
NOISE = {"epsilon": None, "sigma": 1e-3, "seed": 7}
"""The same draw in each run, and little of it: what rounding does to a sum must not grow."""
HELD_OUT = DataLoader(squares(7, 9), 2)  # an odd number: padding would count one image twice
OPERATORS = {
    "Scrub": lambda folder: Scrub(msteps=2, **BY_EPOCH, folder=folder),
    "ScrubRewind": lambda folder: ScrubRewind(msteps=2, **BY_EPOCH, held_out=HELD_OUT, folder=folder),
    "NegGradPlus": lambda folder: NegGradPlus(0.8, **KEYS, folder=folder),
    "FineTune": lambda folder: FineTune(folder=folder),
    "NegGradSeg": lambda folder: NegGradSeg(ring_weight=5.0, **IMAGES, folder=folder),
    "NegGradSeg, ascent": lambda folder: NegGradSeg("ascent", beta=0.8, **IMAGES, folder=folder),
    "Retrain": lambda folder: Retrain(folder=folder),
    "GradientClipping": lambda folder: GradientClipping(**NOISE, steps=4, weight_decay=1.0, folder=folder),
    "ModelClipping": lambda folder: ModelClipping(**NOISE, steps=4, folder=folder),
    "OutputPerturbation": lambda folder: OutputPerturbation(**NOISE, folder=folder),
    "Blockwise": lambda folder: Blockwise(epsilon=1e4, steps=1, seed=7, folder=folder),
    "CFk": lambda folder: CFk(2, folder=folder),
    "EUk": lambda folder: EUk(2, folder=folder),
}


class Mean(TheirModule):
    """The training step of CF-k and EU-k: a mean over images of one size."""

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])


def uneven(count, seed):
    """Only every second image has a ring, so one of two processes sees none."""
    data = squares(count, seed)
    image, fine, coarse = data.tensors
    coarse = torch.where(torch.arange(count)[:, None, None] % 2 == 1, fine, coarse)
    return type(data)(image, fine, coarse)


class InOrder(pl.LightningDataModule):
    """In a fixed order, each process takes every second image: a batch of both is the batch of one alone."""

    def __init__(self, forget):
        super().__init__()
        self.forget = forget

    def loader(self, data):
        world = dist.get_world_size() if dist.is_initialized() else 1
        sampler = DistributedSampler(data, shuffle=False) if world > 1 else None
        return DataLoader(data, 4 // world, sampler=sampler)

    def train_dataloader(self):
        retain = self.loader(uneven(8, 1))
        return {"retain": retain, "forget": self.loader(squares(12, 2))} if self.forget else retain


class Seeded(pl.Callback):
    """What EU-k draws anew is the same draw, whatever launching the processes took from the generator."""

    def on_fit_start(self, trainer, module):
        torch.manual_seed(5)


def fit(out, world, name):
    folder = out / f"{name}-{world}"
    operator = OPERATORS[name](folder)
    options = {"devices": world, "strategy": "ddp_fork"} if world > 1 else {}
    trainer = trainer_for(folder, Seeded(), operator, max_epochs=6, **options)
    trainer.fit(Mean(norm=False), datamodule=InOrder(operator.asks_for_forget))


@pytest.fixture(scope="module")
def out(tmp_path_factory, as_script):
    folder = tmp_path_factory.mktemp("ddp")
    as_script(__file__, folder)
    return folder


@pytest.mark.parametrize("name", OPERATORS)
def test_two_processes_unlearn_as_one(out, name):
    alone, together = (load_file(out / f"{name}-{world}" / "weights.safetensors") for world in (1, 2))
    start = Mean(norm=False).state_dict()
    assert any(not torch.equal(alone[key], start[key]) for key in alone)
    for key in alone:
        torch.testing.assert_close(together[key], alone[key], rtol=1e-4, atol=1e-5)
    one, two = (json.loads((out / f"{name}-{world}" / "unlearning.json").read_text()) for world in (1, 2))
    assert one["steps"] == two["steps"]
    assert one.get("rewind") == two.get("rewind")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for operator in OPERATORS:
        for processes in (1, 2):
            fit(Path(sys.argv[1]), processes, operator)
