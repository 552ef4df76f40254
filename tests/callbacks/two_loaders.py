"""A stranger's project with two loaders: tiny images, a module and a Trainer for the operators that push away."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

KEYS = {"image_key": 0, "fine_key": 1, "coarse_key": 2, "role_key": None}
BY_EPOCH = {**KEYS, "max_phase": None, "min_phase": None}


def squares(count, seed):
    """Noisy images of a square, its outline, and a box around it."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.zeros(count, 8, 8, dtype=torch.long)
    for index in range(count):
        row, column = torch.randint(1, 4, (2,), generator=generator).tolist()
        fine[index, row : row + 3, column : column + 2 + index % 3] = 1
    coarse = nn.functional.max_pool2d(fine[:, None].float(), 3, 1, 1)[:, 0].long()
    image = fine[:, None] * 1.5 + 0.3 * torch.randn(count, 1, 8, 8, generator=generator)
    return TensorDataset(image, fine, coarse)


class TheirModule(pl.LightningModule):
    def __init__(self, norm=True, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        middle = [nn.BatchNorm2d(6)] if norm else []
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), *middle, nn.PReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6, 2, 1),
        )  # fmt: skip

    def forward(self, image):
        return self.body(image)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[2])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def pair(retain=None, forget=None, batch_size=4):
    """Loaders in a fixed order."""
    return {
        "retain": DataLoader(retain or squares(8, 1), batch_size),
        "forget": DataLoader(forget or squares(12, 2), batch_size),
    }


def trainer_for(folder, *callbacks, **options):
    usual = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": Path(folder),
    }  # fmt: skip
    return pl.Trainer(**{**usual, **options}, callbacks=list(callbacks))


def coarse_trained(norm=True, epochs=15):
    """A model that learnt the boxes."""
    module = TheirModule(norm)
    trainer_for("coarse", max_epochs=epochs).fit(module, DataLoader(squares(16, 2), 4))
    return module


def copy_of(module, norm=True):
    copy = TheirModule(norm)
    copy.load_state_dict(module.state_dict())
    return copy
