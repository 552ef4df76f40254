"""A stranger's project for certified runs: tiny images, a module and a Trainer."""

import json

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import GradientClipping, ModelClipping, OutputPerturbation, Retrain

OPERATORS = [GradientClipping, ModelClipping, OutputPerturbation]
STEPS = 5
PROMISES = {
    "Retrain": lambda: Retrain(),
    "GradientClipping": lambda: GradientClipping(steps=2),
    "OutputPerturbation": lambda: OutputPerturbation(),
}
"""One operator of each way to promise: exact, with noise at each step, with noise at the start."""
promises = pytest.mark.parametrize("make", PROMISES.values(), ids=PROMISES.keys())


def network(norm=True):
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)]
    return nn.Sequential(*layers[:1], *([nn.BatchNorm2d(4)] if norm else []), *layers[1:])


class Module(pl.LightningModule):
    def __init__(self, net=None, rate=0.01):
        super().__init__()
        self.network = net or network()
        self.rate = rate

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.network(batch["image"]), batch["mask"])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.rate)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def loader():
    generator = torch.Generator().manual_seed(1)
    items = [
        {
            "image": torch.randn(3, 8, 8, generator=generator),
            "mask": torch.randint(0, 2, (8, 8), generator=generator),
        }
        for _ in range(8)
    ]
    return DataLoader(items, batch_size=4)


def fit(module, folder, *callbacks, ckpt_path=None, max_steps=9, **settings):
    settings = {"accelerator": "cpu", "enable_checkpointing": False, "logger": False, **settings}
    trainer = pl.Trainer(
        devices=1, max_steps=max_steps, callbacks=list(callbacks), default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return trainer


def content(folder):
    return json.loads((folder / "unlearned" / "certificate.json").read_text())


class Watch(pl.Callback):
    """The optimiser of every step; optionally interferes at one."""

    def __init__(self, at=None, act=None):
        self.names, self.at, self.act = [], at, act

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if self.act is not None and trainer.global_step == self.at:
            self.act(trainer, module)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.names.append(type(optimizer).__name__)
