"""What tests of the exposure ledger share: images with roles, a module with statistics, a run of it."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, default_collate

from erode.batch import NO_PRIOR, Role


class Module(pl.LightningModule):
    """A body with running statistics and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.head(self.body(batch["image"])), batch["mask"].clamp(max=1))

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)


def item(name, role=Role.RETAIN, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(8, 8, dtype=torch.long)
    mask[2:5, 2:6] = 1 if role != Role.UNLABELLED else 0
    roles = torch.zeros(8, 8, dtype=torch.uint8)
    roles[2:5, 2:6] = role
    prior = torch.full((8, 8), NO_PRIOR)
    return {"image": torch.randn(3, 8, 8, generator=generator), "mask": mask, "role": roles, "prior": prior, "id": name}


def batch_of(*items):
    """A batch as loaders of other projects make them, without the position prior."""
    return {key: value for key, value in default_collate(list(items)).items() if key != "prior"}


def loader(*items, batch_size=1):
    return DataLoader(list(items), batch_size=batch_size)


def fit(module, data, folder, *callbacks, max_steps=-1, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=max_steps, max_epochs=1 if max_steps < 0 else -1,
        callbacks=list(callbacks), default_root_dir=folder, logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data, **options)
    return trainer


def each_step(folder):
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
