"""Two and three processes: bit-identical weights over hundreds of noisy steps.

The fits run in one process of their own, which forks the ranks: this file, run as a script.
"""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erode.callbacks import GradientClipping
from erode.weights import weights_digest

STEPS, FREE = 300, 4


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Unseeded(pl.Callback):
    """Each rank draws its dropout differently, and leaves a digest of its weights."""

    def __init__(self, operator):
        self.operator = type(operator).__name__

    def on_train_start(self, trainer, module):
        torch.manual_seed(1000 + trainer.global_rank)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step in (1, STEPS // 2, STEPS, STEPS + FREE):
            name = f"{self.operator}-{trainer.world_size}-{trainer.global_step}-{trainer.global_rank}"
            (Path(trainer.default_root_dir) / name).write_text(weights_digest(module))


def fit(folder, devices):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(48, 4), torch.randint(0, 2, (48,)))
    operator = GradientClipping(steps=STEPS, weight_decay=1.0, folder=folder / f"GradientClipping-{devices}")
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork", max_steps=STEPS + FREE, logger=False,
        accumulate_grad_batches=2, callbacks=[Unseeded(operator), operator], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(data, batch_size=4))


def test_ranks_agree_bit_for_bit(tmp_path, as_script):
    as_script(__file__, tmp_path)
    for world in (2, 3):
        for step in (1, STEPS // 2, STEPS, STEPS + FREE):
            digests = [(tmp_path / f"GradientClipping-{world}-{step}-{rank}").read_text() for rank in range(world)]
            assert len(set(digests)) == 1, (world, step)
        certificate = json.loads((tmp_path / f"GradientClipping-{world}" / "certificate.json").read_text())
        assert certificate["issued"] is True


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    fit(out, 2)
    fit(out, 3)
