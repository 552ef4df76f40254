"""What tests of rewinding share: a run with a ledger and a checkpoint after each image."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import ExposureLedger

ORDER = [("a", "outside"), ("b", "foreground"), ("c", "forget"), ("d", "forget")]


class Module(pl.LightningModule):
    """Takes batches of a type of its own; ``atoms`` says what they hold."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch["x"]), batch["y"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def loader(*atoms, copies=4):
    generator = torch.Generator().manual_seed(len(atoms))
    items = [
        {"x": torch.randn(4, generator=generator), "y": torch.tensor(i % 2), "atoms": f"{level}:{name}"}
        for name, level in atoms
        for i in range(copies)
    ]
    return DataLoader(items, batch_size=copies)


def fit(module, data, folder, *callbacks, devices=1, max_steps=-1, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", max_steps=max_steps,
        max_epochs=1 if max_steps < 0 else -1, callbacks=list(callbacks), default_root_dir=folder, logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data, **options)
    return trainer


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step={step}.ckpt"


def run_with_checkpoints(folder):
    """A run over a, b, c, d in this order with a checkpoint after each."""
    every = ModelCheckpoint(folder / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(Module(), loader(*ORDER), folder, ExposureLedger("initialisation"), every)
    return folder
