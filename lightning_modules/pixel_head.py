"""A strongly convex head per pixel on a frozen encoder that never saw a label to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..batch import Role
from ..losses import soft_targets
from ..ridge import HeadPixels, RidgeObjective, minimise
from ..weights import load_weights, read_state, state_digest
from ..whole_set import announce, why_partial
from .frozen_features import FrozenFeatures
from .segmentation import SegmentationModule

READ = 16
"""Images that pass through the encoder at once when the whole training set is read."""


class PixelHead(SegmentationModule):
    """Multinomial logistic regression with ridge on frozen features, fitted to a gradient tolerance (theory §5).

    One sample is one *image*: its loss is the mean cross-entropy of its labelled pixels, soft targets included, so
    forgetting a mask changes one of n losses. The terms of the retain view that are not convex (partial labels, image
    class) are left out. ``fit`` reads the training set once, holds the features in memory (4 bytes per pixel and
    channel), minimises by Newton's method in double precision, and takes no step of its own. With ``tolerance=None``
    it trains with ``optimizer`` instead, like any module. The Hessian is a matrix of (K (channels + 1))² doubles.

    Args:
        encoder: maps images ``[B, C, *spatial]`` to features ``[B, channels, *any]``.
        channels: of its features.
        num_classes: K, background included.
        ridge: λ > 0; the noise of every certificate falls with it.
        feature_norm: S, length above which features are scaled down; None = √channels.
        encoder_weights: file of the encoder's weights, which were computed without the forget set.
        tolerance: gradient norm to which ``fit`` minimises; None = train with ``optimizer``.
        optimizer: builds the optimiser from the head.
        class_names: see :class:`SegmentationModule`.
        positive_class: see there.
        bootstrap: see there.

    Raises:
        ValueError: for arguments out of range, and for an encoder whose output does not fit.

    Example:
        >>> PixelHead(nn.Conv2d(3, 4, 3, padding=1), channels=4, num_classes=3)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    network: FrozenFeatures

    def __init__(
        self,
        encoder: nn.Module,
        channels: int,
        num_classes: int = 2,
        ridge: float = 1e-3,
        feature_norm: float | None = None,
        encoder_weights: str | None = None,
        tolerance: float | None = 1e-9,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        class_names: Sequence[str] | None = None,
        positive_class: int | None = None,
        bootstrap: int = 1000,
    ) -> None:
        if not ridge > 0:
            raise ValueError(f"ridge must be > 0, got {ridge}: without it nothing is strongly convex")
        if encoder_weights is not None:
            load_weights(encoder, encoder_weights)
        super().__init__(
            network=FrozenFeatures(encoder, channels, num_classes, feature_norm),
            num_classes=num_classes,
            class_names=class_names,
            positive_class=positive_class,
            optimizer=optimizer,
            bootstrap=bootstrap,
        )
        self.ridge = ridge
        self.encoder_weights = encoder_weights
        self.tolerance = tolerance

    @property
    def head(self) -> nn.Parameter:
        """W, ``[K, channels + 1]``, double."""
        return self.network.head

    def unexposed(self) -> dict[str, Tensor] | None:
        """The encoder's weights as their file has them, by name in this module; None without a file."""
        if self.encoder_weights is None:
            return None
        return {f"network.encoder.{name}": t for name, t in read_state(Path(self.encoder_weights)).items()}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The objective over the images of a batch."""
        self.check_once(batch)
        atoms = self._atoms(batch)
        log_p = (atoms.features.double() @ self.head.T).log_softmax(1)
        loss = -(atoms.weight.double() @ (atoms.targets * log_p).sum(1)) / len(batch["image"])
        loss = loss + self.ridge / 2 * self.head.square().sum()
        self.log("train/loss", loss.float(), batch_size=len(batch["image"]))
        return loss

    def on_train_start(self) -> None:
        """Minimise, unless an operator has already done what there was to do."""
        if self.tolerance is None or self.trainer.should_stop:
            return
        objective = self.objective(retained_only=False)
        weights, norm, passes = minimise(objective, self.head.detach().to(_device(self)), self.tolerance)
        if norm > self.tolerance:
            raise FloatingPointError(
                f"the gradient stayed at {norm:.3g}, above the tolerance {self.tolerance:.3g}; raise tolerance or ridge"
            )
        with torch.no_grad():
            self.head.copy_(weights)
        rank_zero_info(f"PixelHead: gradient {norm:.2g} after {passes} passes over {objective.samples} images")
        self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        """The optimiser of the head."""
        return self._make_optimizer([self.head])

    def objective(self, batch_size: int | None = None, *, retained_only: bool = True) -> RidgeObjective:
        """Read the training set once, whole and without augmentation on the device.

        Args:
            batch_size: smallest number of images of a batch of the objective; image i belongs to batch
                ``i mod (n // batch_size)``. None = as they are read.
            retained_only: refuse pixels marked as FORGET.

        Returns:
            The objective over all processes; each holds the features of its share of the images.

        Raises:
            MisconfigurationException: for an encoder that could learn, a loader without a map-style data set or one
                that may leave out some of it, or forget atoms.
        """
        self._check_frozen()
        loader = self.trainer.train_dataloader
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__getitem__"):
            raise MisconfigurationException("PixelHead reads one DataLoader over a data set with an index; give one")
        if (why := why_partial(loader, self.trainer)) is not None:
            raise MisconfigurationException(f"PixelHead reads the whole data set, and {why}")
        size = len(loader.dataset)  # type: ignore[arg-type]  # Dataset declares no __len__
        if batch_size is not None and batch_size > size:
            raise ValueError(f"batch_size = {batch_size} is more than the {size} images; lower it")
        groups = -(-size // READ) if batch_size is None else size // batch_size
        rank, world = self.trainer.global_rank, self.trainer.world_size
        prints = torch.zeros(size, dtype=torch.int64, device=_device(self))
        batches = [
            self._read(loader, range(size)[g::groups][rank::world], retained_only, prints) for g in range(groups)
        ]
        images = [len(range(size)[group::groups]) for group in range(groups)]
        return RidgeObjective(batches, images, self.ridge, self._total, prints)

    def _read(self, loader: DataLoader[Any], indices: range, retained_only: bool, prints: Tensor) -> HeadPixels:
        parts = [self._empty()]
        collate = loader.collate_fn
        for first in range(0, len(indices), READ):
            items = [loader.dataset[index] for index in indices[first : first + READ]]
            collated = collate(items)
            for index, fingerprint in zip(indices[first : first + READ], self._fingerprints(collated), strict=True):
                prints[index] = fingerprint
            batch = self.trainer.strategy.batch_to_device(collated, self.device)
            self.check_once(batch)
            if retained_only and bool((batch["role"] == Role.FORGET).any()):
                raise MisconfigurationException(
                    "the training loader still serves forget atoms; serve the view 'retain' instead "
                    "(MaskDataModule.serve)"
                )
            announce(self.trainer, self, batch)
            parts.append(self._atoms(batch))
        return HeadPixels(*(torch.cat(column).to(_device(self)) for column in zip(*parts, strict=True)))

    def _fingerprints(self, batch: dict[str, Any]) -> list[int]:
        """What tells one image with its labels from another; never 0."""
        targets, known = soft_targets(batch, self.num_classes)
        found = []
        for image, target, where in zip(batch["image"], targets, known, strict=True):
            parts = {"image": image, "targets": torch.where(where, target, 0.0), "known": where}
            found.append(int(state_digest(parts)[:15], 16) + 1)
        return found

    def _atoms(self, batch: dict[str, Any]) -> HeadPixels:
        targets, known = soft_targets(batch, self.num_classes)
        pixels = known.flatten(1).sum(1)
        count = pixels.clamp(min=1).view(-1, *[1] * (known.ndim - 1))
        features = self.network.features(batch["image"])
        return HeadPixels(
            features.movedim(1, -1)[known].float(),
            targets.movedim(1, -1)[known],
            (1 / count.double()).expand(known.shape)[known],
            pixels,
        )

    def _empty(self) -> HeadPixels:
        features = torch.empty(0, self.head.shape[1], device=self.device)
        targets = torch.empty(0, self.num_classes, device=self.device)
        none = torch.empty(0, device=self.device)
        return HeadPixels(features, targets, none.double(), none.long())

    def _total(self, tensor: Tensor) -> Tensor:
        summed: Tensor = self.trainer.strategy.reduce(tensor.clone(), reduce_op="sum")
        return summed

    def _check_frozen(self) -> None:
        encoder = self.network.encoder
        learning = [name for name, p in encoder.named_parameters() if p.requires_grad]
        training = [name or "itself" for name, layer in encoder.named_modules() if layer.training]
        if learning or training:
            what = f"{learning[0]} requires a gradient" if learning else f"{training[0]} is in training mode"
            raise MisconfigurationException(
                f"the encoder is not frozen: its {what}; leave requires_grad_(False) and eval() as PixelHead sets them"
            )


def _device(module: PixelHead) -> torch.device:
    """Where the objective is computed: Apple's GPUs know no double precision."""
    return torch.device("cpu") if module.device.type == "mps" else module.device
