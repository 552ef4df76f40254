"""What tests of quantised training share: a module, images and a fit."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erode.lightning_modules import QuantisedTraining


class Plain(pl.LightningModule):
    def __init__(self, network=None, lr=0.05):
        super().__init__()
        self.network = network or nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 1))
        self.lr = lr

    def training_step(self, batch, index):
        loss = nn.functional.mse_loss(self.network(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Module(QuantisedTraining, Plain):
    pass


def data(seed=0, size=24, far=0.0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 6, 6, generator=generator)
    return TensorDataset(images, images.roll(1, -1) + far)


def fit(dataset, folder, *callbacks, steps=6, batch_size=5, module=None, seed=0, loader=None, **settings):
    torch.manual_seed(seed)
    module = module or Module(bound=0.05, kappa=0.02, smoothing=0.02)
    settings = {"max_steps": steps, "devices": 1, "logger": False, **settings}
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=list(callbacks), default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(module, loader or DataLoader(dataset, batch_size, shuffle=True), ckpt_path=ckpt_path)
    return module
