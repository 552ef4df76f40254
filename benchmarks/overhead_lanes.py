"""Trainings that take turns within one process, a few steps at a time (for overhead.py)."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import lightning.pytorch as pl
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from erode.callbacks.bases.noisy_phase import NoisyPhase

CLASSES = 3

Loader = DataLoader[tuple[Tensor, Tensor]]


class Setting(NamedTuple):
    """What every training has in common."""

    device: torch.device
    precision: str
    side: int
    batch: int
    channels: tuple[int, ...]

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        strides = (2,) * (len(self.channels) - 1)
        return UNet(2, 3, CLASSES, self.channels, strides, num_res_units=2)

    def data(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(self.batch, 3, self.side, self.side, generator=generator)
        mask = torch.randint(CLASSES, (self.batch, self.side, self.side), generator=generator)
        return image.to(self.device), mask.to(self.device)


class Cost(NamedTuple):
    """Seconds of the clock, of all processors, and of the processors between backward pass and end of the step."""

    wall: float
    cpu: float
    update: float

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


class Lane(Protocol):
    """A training that waits for its turn."""

    def block(self, steps: int) -> Cost:
        """Take some steps."""

    def close(self) -> None:
        """End."""


class Module(pl.LightningModule):
    """Plain segmentation with plain SGD."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class Turn(pl.Callback):
    """Stops the Trainer after each turn until the next; comes last among the callbacks."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.left, self.update, self._stepping = 0, 0.0, 0.0
        self.closed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._wait(trainer)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._stepping = time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.update += time.process_time() - self._stepping
        self.left -= 1
        if self.left == 0:
            synchronize(self.device)
            self._wait(trainer)

    def _wait(self, trainer: pl.Trainer) -> None:
        self.done.release()
        self.go.acquire()
        trainer.should_stop = self.closed


class LightningLane:
    """A whole Trainer.fit in a thread of its own."""

    def __init__(self, setting: Setting, operator: NoisyPhase | None, steps: int, folder: Path) -> None:
        self._turn = Turn(setting.device)
        self._trainer, self._module, self._loader = trainer_for(setting, operator, steps, folder, self._turn)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()
        self._await()

    def block(self, steps: int) -> Cost:
        self._turn.left, self._turn.update = steps, 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        self._turn.go.release()
        self._await()
        return Cost(time.perf_counter() - wall, time.process_time() - cpu, self._turn.update)

    def close(self) -> None:
        self._turn.closed = True
        self._turn.go.release()
        self._thread.join()

    def _await(self) -> None:
        self._turn.done.acquire()
        if self._failure is not None:
            raise self._failure

    def _fit(self) -> None:
        try:
            self._trainer.fit(self._module, self._loader)
        except BaseException as failure:
            self._failure = failure
            self._turn.done.release()


class PerImage(nn.Module):
    """Cross-entropy of each image: Opacus' ghost clipping wants one loss per sample, not per pixel."""

    reduction = "mean"

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(logits, mask, reduction="none").flatten(1).mean(1)
        return losses if self.reduction == "none" else losses.mean()


class OpacusLane:
    """Opacus in the plain loop of its tutorials."""

    def __init__(self, setting: Setting, mode: str) -> None:
        from opacus import PrivacyEngine

        network = setting.network().to(setting.device)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        image, mask = setting.data()
        loader = DataLoader(TensorDataset(image.cpu(), mask.cpu()), setting.batch)
        made = PrivacyEngine().make_private(
            module=network, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0, max_grad_norm=1.0,
            poisson_sampling=False, grad_sample_mode=mode, criterion=PerImage(),
        )  # fmt: skip
        self._network, self._optimizer = made[0], made[1]
        self._criterion = made[2] if mode == "ghost" else PerImage()
        self._data, self._device = (image, mask), setting.device
        mixed = setting.precision == "bf16-mixed"
        self._autocast = torch.autocast(setting.device.type, torch.bfloat16) if mixed else nullcontext()

    def block(self, steps: int) -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self._optimizer.zero_grad()
            with self._autocast:
                loss = self._criterion(self._network(self._data[0]), self._data[1])
            loss.backward()
            self._optimizer.step()
        synchronize(self._device)
        return Cost(time.perf_counter() - wall, time.process_time() - cpu, 0.0)

    def close(self) -> None:
        """Nothing runs between turns."""


def opacus_training(setting: Setting, mode: str, steps: int) -> None:
    OpacusLane(setting, mode).block(steps)


def trainer_for(
    setting: Setting, operator: NoisyPhase | None, steps: int, folder: Path, *last: pl.Callback
) -> tuple[pl.Trainer, pl.LightningModule, Loader]:
    callbacks = [c for c in (operator, *last) if c is not None]
    trainer = pl.Trainer(
        accelerator="gpu" if setting.device.type == "cuda" else "cpu", devices=1, precision=setting.precision,
        max_steps=steps, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
    )  # fmt: skip
    return trainer, Module(setting.network()), DataLoader([setting.data()] * steps, batch_size=None)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
