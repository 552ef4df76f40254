"""Opacus and the noisy phase under Lightning's DDP and its resume: do ranks agree, does the account go on?

``python benchmarks/opacus_ddp.py --out opacus_ddp.json`` trains one small network in two gloo processes, once with
Opacus' ``PrivacyEngine.make_private`` in ``configure_optimizers`` and once with ``GradientClipping``, and compares
the weights of the ranks. Then one process is ended in the middle of each training and resumed from its checkpoint,
and the account at the end is compared with that of a run that was not interrupted.

Opacus has a distributed optimiser, which it takes for a module that is already wrapped; within Lightning the module
is wrapped later. What is shown is the recipe that people arrive at there, not Opacus' own distributed loop.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from erode.callbacks import GradientClipping
from erode.certificates import verify

STEPS, DELTA = 8, 1e-5
KINDS = ("Opacus", "GradientClipping")


class Module(pl.LightningModule):
    """A small network under plain SGD, private by Opacus if asked to."""

    def __init__(self, opacus: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        self.engine: Any = None
        if opacus:
            from opacus import PrivacyEngine

            self.engine = PrivacyEngine(accountant="rdp")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer: Any = torch.optim.SGD(self.parameters(), lr=0.1)
        if self.engine is not None:
            _, optimizer, _ = self.engine.make_private(
                module=self.network, optimizer=optimizer, data_loader=loader(), noise_multiplier=1.0,
                max_grad_norm=1.0, poisson_sampling=False,
            )  # fmt: skip
        return optimizer


class Watch(pl.Callback):
    """Notes the weights of this rank after each step; ends the process when told to."""

    def __init__(self, folder: Path, end_after: int | None) -> None:
        self.folder, self.end_after = folder, end_after

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.manual_seed(1000 + trainer.global_rank)  # ranks draw their augmentation differently in any real run

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        flat = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        torch.save(flat, self.folder / f"step{trainer.global_step}-rank{trainer.global_rank}.pt")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if trainer.global_step == self.end_after:
            raise KeyboardInterrupt  # as a scheduler or a person ends it


def loader() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(64, 1, 8, 8, generator=generator), torch.randint(2, (64, 8, 8), generator=generator)
    )
    return DataLoader(data, batch_size=4)


def train(kind: str, folder: Path, devices: int, end_after: int | None, resume: Path | None) -> dict[str, Any]:
    """One fit; what it says of its own account."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = kind == "GradientClipping"
    module, checkpoints = Module(not ours), ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    operator = GradientClipping(radius=1.0, steps=STEPS, delta=DELTA, folder=folder / "unlearned")
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", max_steps=STEPS,
        callbacks=[*([operator] if ours else []), Watch(folder, end_after), checkpoints], logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    try:
        trainer.fit(module, loader(), ckpt_path=resume)
    except (KeyboardInterrupt, SystemExit):
        return {"interrupted": True}
    if devices > 1:  # forked ranks keep what they know
        return {}
    if ours:
        verify(folder / "unlearned" / "certificate.json", folder / "unlearned" / "weights.safetensors")
        content = json.loads((folder / "unlearned" / "certificate.json").read_text())
        return {"steps": content["account"]["steps"], "epsilon": content["claim"]["epsilon"]}
    return {"steps": sum(entry[2] for entry in module.engine.accountant.history),
            "epsilon": module.engine.get_epsilon(DELTA)}  # fmt: skip


def run(kind: str, folder: Path, devices: int = 1, end_after: int | None = None, resume: Path | None = None) -> Any:
    """A fit in a process of its own, as after a crash."""
    process = get_context("fork").Process(target=child, args=(kind, folder, devices, end_after, resume))
    process.start()
    process.join(300)
    if not end_after and process.exitcode != 0:
        raise RuntimeError(f"{kind}: the process ended with {process.exitcode}")
    result = folder / "result.json"
    return json.loads(result.read_text()) if result.exists() else {}


def child(kind: str, folder: Path, devices: int, end_after: int | None, resume: Path | None) -> None:
    torch.set_num_threads(1)
    (folder / "result.json").write_text(json.dumps(train(kind, folder, devices, end_after, resume)))


def spread(folder: Path, step: int) -> float:
    """Largest difference of one weight between the two ranks."""
    first, second = (torch.load(folder / f"step{step}-rank{rank}.pt") for rank in (0, 1))
    return float((first - second).abs().max())


def observe(kind: str, folder: Path) -> dict[str, Any]:
    run(kind, folder / "ddp", devices=2)
    whole = run(kind, folder / "whole")
    run(kind, folder / "cut", end_after=STEPS // 2)
    resumed = run(kind, folder / "resumed", resume=folder / "cut" / f"step={STEPS // 2}.ckpt")
    return {
        "what": kind,
        **{f"spread_{step}": spread(folder / "ddp", step) for step in (1, STEPS)},
        "steps_whole": whole["steps"], "epsilon_whole": whole["epsilon"],
        "steps_resumed": resumed["steps"], "epsilon_resumed": resumed["epsilon"],
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> Table:
    result = Table(title=f"Two ranks under Lightning DDP; {STEPS} steps, interrupted and resumed after {STEPS // 2}")
    for heading in ("", "ranks differ after\nstep 1", f"\nstep {STEPS}", "uninterrupted:\nsteps, ε",
                    "resumed: steps\nin the account", "\nε"):  # fmt: skip
        result.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        result.add_row(
            row["what"], f"{row['spread_1']:.3g}", f"{row[f'spread_{STEPS}']:.3g}",
            f"{row['steps_whole']}, {row['epsilon_whole']:.3f}", str(row["steps_resumed"]),
            f"{row['epsilon_resumed']:.3f}",
        )  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        rows = [observe(kind, Path(folder) / kind) for kind in KINDS]
    Console(width=120).print(show(rows))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
