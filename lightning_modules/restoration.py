"""Label-free pretraining: restore images from which patches were erased and shuffled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from monai.transforms import Compose, RandCoarseDropout, RandCoarseShuffle
from torch import Tensor, nn

from .segmentation import default_network

SEEDS = 2**31
"""MONAI's transforms take seeds below this."""


class RestorationModule(LightningModule):
    """Pretrain a network to restore images; no mask, label or role is ever read.

    Patches of each image are erased or have their pixels shuffled; the loss is the mean absolute difference from the
    original image, over all pixels. What it learns is a function of images alone, so its weights are an anchor for any
    request that takes masks back: ``erode anchor`` moves them, all but the head, into a fresh segmentation network.

    Args:
        network: maps ``[B, C, *spatial]`` to ``[B, C, *spatial]``; None = the default network of
            :class:`~erode.lightning_modules.SegmentationModule` with C output channels.
        spatial_dims: 2 or 3; for the default network.
        in_channels: C; for the default network.
        corruption: spoils one image ``[C, *spatial]``; a MONAI transform, which gets its seed from the run's. None =
            erase, then shuffle, patches of ``patch`` pixels.
        patch: largest side of a patch in pixels; for the default corruption.
        patches: largest number of patches of each kind; for the default corruption.
        optimizer: builds the optimiser from parameters.

    Raises:
        ValueError: for arguments out of range, and where the network's output is not shaped like the image.

    Source: Chen et al. 2019 (context restoration); Zhou et al. 2021 (Models Genesis), through MONAI; theory §6.

    Example:
        >>> module = RestorationModule()
        >>> module(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        spatial_dims: Literal[2, 3] = 2,
        in_channels: int = 3,
        corruption: Callable[[Tensor], Tensor] | None = None,
        patch: int = 12,
        patches: int = 6,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
    ) -> None:
        super().__init__()
        if patch < 2 or patches < 1:
            raise ValueError(f"patch must be at least 2 pixels and patches at least 1, got {patch} and {patches}")
        self.network = network or default_network(in_channels, spatial_dims, in_channels)
        self._corruption = corruption or default_corruption(patch, patches)
        self._make_optimizer = optimizer

    def forward(self, image: Tensor) -> Tensor:
        """Restored images ``[B, C, *spatial]`` of spoilt ones."""
        return self.network(image)  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch; of the batch it reads ``image`` alone."""
        image = batch["image"]
        loss = self._difference(image, int(torch.randint(SEEDS, ()).item()))
        self.log("train/loss", loss, batch_size=len(image))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Log ``val/restoration``, each image spoilt in the same way every time."""
        loss = self._difference(batch["image"], batch_idx)
        self.log("val/restoration", loss, batch_size=len(batch["image"]), sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser."""
        return self._make_optimizer(self.parameters())

    def spoil(self, image: Tensor, seed: int) -> Tensor:
        """Spoil a batch ``[B, C, *spatial]``; the same way for the same seed."""
        if hasattr(self._corruption, "set_random_state"):
            self._corruption.set_random_state(seed % SEEDS)  # theirs starts from no seed of the run's
        return torch.stack([torch.as_tensor(self._corruption(one.clone())) for one in image]).to(image)

    def _difference(self, image: Tensor, seed: int) -> Tensor:
        restored = self(self.spoil(image, seed))
        if restored.shape != image.shape:
            raise ValueError(
                f"{type(self.network).__name__} makes {list(restored.shape)} of images {list(image.shape)}; "
                "make it return as many channels and pixels as the image has"
            )
        return F.l1_loss(restored, image)


def default_corruption(patch: int, patches: int) -> Compose:
    """Erase patches, then shuffle the pixels of others.

    Args:
        patch: largest side in pixels.
        patches: largest number of each kind.
    """
    size: dict[str, Any] = {"spatial_size": max(1, patch // 2), "max_spatial_size": patch}
    number: dict[str, Any] = {"holes": max(1, patches // 2), "max_holes": patches}
    return Compose(
        [RandCoarseDropout(**number, **size, fill_value=0, prob=1.0), RandCoarseShuffle(**number, **size, prob=0.5)]
    )
