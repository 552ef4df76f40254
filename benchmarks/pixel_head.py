"""What the certificates cost a pixel head: Dice at ε against its own noiseless optimum.

``python benchmarks/pixel_head.py --out pixel_head.json``, or ``--isic FOLDER``. A small U-Net learns from the fine
images alone, so it never saw the forget set; its 16 last features are frozen, and the head is fitted to all coarse
masks, then unlearnt on the retain view. Noise is drawn anew for each seed; the bar is a loss below 0.005 lesion Dice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from torch import nn

from erode.callbacks import ProjectedNoisySGD, ResidualCertificate
from erode.datamodules import ISICDataModule, MaskDataModule, SyntheticDermoscopy
from erode.lightning_modules import PixelHead, SegmentationModule
from erode.lightning_modules.segmentation import default_network
from erode.masks import DiskDilation
from erode.report.table import mean_and_sd
from erode.weights import save_weights

CHANNELS, DELTA = 16, 1e-7


def data_of(arguments: argparse.Namespace, seed: int) -> MaskDataModule:
    """The data, every mask coarse but for a tenth."""
    coarsening, shared = DiskDilation(half_width=8), {"fine_fraction": 0.1, "split_seed": seed}
    if arguments.isic:
        return ISICDataModule(
            root=arguments.isic, size=arguments.size, task="multiclass", flag="ruler", coarsening=coarsening, **shared
        )
    return SyntheticDermoscopy(coarsening=coarsening, train_images=arguments.images, **shared)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "max_epochs": -1,
            "default_root_dir": folder,
            "callbacks": list(callbacks),
            **options,
        }
    )


def encoder_of(data: MaskDataModule, steps: int, folder: Path) -> tuple[nn.Module, float, Path]:
    """A network trained on the fine images alone, the typical length of its features there, and its weights' file."""
    features = default_network(CHANNELS)
    network = nn.Sequential(features, nn.Conv2d(CHANNELS, data.num_classes, 1))
    module = SegmentationModule(network, num_classes=data.num_classes, class_names=data.class_names)
    data.serve("fine_subset")
    trainer(folder, max_steps=steps).fit(module, datamodule=data)
    images = torch.stack([data.dataset("train")[i]["image"] for i in range(min(16, len(data.dataset("train"))))])
    with torch.inference_mode():
        length = float(features.eval()(images).norm(dim=1).median())
    return features, length, save_weights(features, folder / "encoder.safetensors")


def dice(module: PixelHead, data: MaskDataModule, folder: Path) -> float:
    """Lesion Dice on the test part."""
    return float(trainer(folder).test(module, datamodule=data, verbose=False)[0]["test/dice_lesion"])


def run(arguments: argparse.Namespace, seed: int, folder: Path) -> list[dict[str, Any]]:
    """All rows of one seed."""
    seed_everything(seed, verbose=False)
    data = data_of(arguments, seed)
    encoder, length, file = encoder_of(data, arguments.steps, folder)
    shared: dict[str, Any] = {
        "ridge": arguments.ridge, "feature_norm": length, "encoder_weights": str(file), "bootstrap": 0,
        "num_classes": data.num_classes, "class_names": data.class_names,
    }  # fmt: skip
    coarse = PixelHead(encoder, CHANNELS, **shared)
    data.serve("coarse")
    trainer(folder, max_steps=1).fit(coarse, datamodule=data)
    trained = coarse.head.detach().clone()
    rows = [{"method": "coarse masks", "epsilon": None, "sigma": None, "dice": dice(coarse, data, folder)}]

    data.serve("retain")
    optimum = PixelHead(encoder, CHANNELS, **shared)
    trainer(folder, max_steps=1).fit(optimum, datamodule=data)
    best = dice(optimum, data, folder)
    rows.append({"method": "noiseless optimum", "epsilon": None, "sigma": None, "dice": best})

    samples = len(data.dataset("train"))
    for epsilon in arguments.epsilons:
        residual = ResidualCertificate(
            epsilon, DELTA, tolerance=arguments.tolerance, ridge=arguments.ridge, folder=folder / f"residual-{epsilon}"
        )
        noisy = ProjectedNoisySGD(
            samples, samples, epsilon, DELTA, epochs=arguments.epochs, ridge=arguments.ridge,
            batch_size=samples // 4, folder=folder / f"sgd-{epsilon}",
        )  # fmt: skip
        operators = {"residual certificate": residual, f"noisy SGD, {arguments.epochs} epochs": noisy}
        for name, operator in operators.items():
            module = PixelHead(encoder, CHANNELS, **shared)
            with torch.no_grad():
                module.head.copy_(trained)
            trainer(folder, operator, max_steps=1).fit(module, datamodule=data)
            sigma = operator.mechanism.sigma
            found = dice(module, data, folder) if operator.released else None
            rows.append({"method": name, "epsilon": epsilon, "sigma": sigma, "dice": found})
    for row in rows:
        row |= {"seed": seed, "loss": None if row["dice"] is None else best - row["dice"]}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="what certificates cost a pixel head")
    parser.add_argument("--isic", type=Path, help="folder of ISIC 2017; left out = synthetic data")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side, for ISIC")
    parser.add_argument("--images", type=int, default=600, help="training images of the synthetic data")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the encoder")
    parser.add_argument("--ridge", type=float, default=1e-4)
    parser.add_argument("--tolerance", type=float, default=1e-9)
    parser.add_argument("--epochs", type=int, default=50, help="epochs of noisy SGD")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON file to write the rows to")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows += run(arguments, seed, Path(folder))
        if arguments.out:
            arguments.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    table = Table("method", "epsilon", "sigma", "lesion Dice", "loss", title=f"seeds {arguments.seeds}")
    for method, epsilon in dict.fromkeys((row["method"], row["epsilon"]) for row in rows):
        same = [row for row in rows if (row["method"], row["epsilon"]) == (method, epsilon)]
        sigma = "–" if epsilon is None else f"{max(row['sigma'] for row in same):.2g}"
        cells = (mean_and_sd([row[name] for row in same], 4) for name in ("dice", "loss"))
        table.add_row(method, "–" if epsilon is None else f"{epsilon:g}", sigma, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
