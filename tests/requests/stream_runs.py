"""What tests of streams share: a run with checkpoints, certified runs, weights that saw nothing."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import ExposureLedger, OutputPerturbation
from erode.requests import Ledger
from erode.weights import load_weights, save_weights

IMAGES = 120


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.layer(batch["x"]), batch["y"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def items(poisoned=frozenset()):
    """One image per name; those of ``poisoned`` have other pixels and labels."""
    for number in range(IMAGES):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(3, generator=generator)
        name = f"i{number}"
        yield {"x": -9 * x if name in poisoned else x, "y": torch.tensor(number % 2), "atoms": f"foreground:{name}"}


def fit(module, data, folder, *callbacks, max_steps=-1, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=max_steps, max_epochs=1 if max_steps < 0 else -1, logger=False,
        callbacks=list(callbacks), default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
    )  # fmt: skip
    trainer.fit(module, None if data is None else DataLoader(list(data), batch_size=1), **options)
    return module


def trained(folder):
    """A run over all images in order, with a checkpoint after every fourth one."""
    every = ModelCheckpoint(folder / "c", filename="{step}", every_n_train_steps=4, save_top_k=-1)
    torch.manual_seed(0)
    module = fit(Module(), items(), folder, ExposureLedger("initialisation"), every)
    save_weights(module, folder / "weights.safetensors")
    return folder


def certified(folder, start, epsilon):
    module = Module()
    load_weights(module, start)
    retained = [{"x": torch.ones(3), "y": torch.tensor(1)}]
    fit(module, retained, folder, OutputPerturbation(epsilon=epsilon, delta=1e-7, radius=0.1), max_steps=1)
    return folder / "unlearned"


def unexposed(folder):
    """Weights that saw nothing, with their ledger."""
    module = Module()
    Ledger.unexposed(module.state_dict(), "test").save(folder / "ledger.json")
    return save_weights(module, folder / "weights.safetensors")
