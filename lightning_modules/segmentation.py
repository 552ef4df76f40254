"""Segmentation with any network, over roles and soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from torch import Tensor, nn

from ..batch import check_batch
from ..files import digest_of
from ..losses import RoleLoss
from ..object_settings import module_settings
from .evaluated import EvaluatedModule
from .evaluation import Evaluation
from .optimisation import schedule_settings, with_schedule

DIVISOR = 8
"""Image sides that the default network can take are multiples of this."""

BOOTSTRAP = 1000
"""Resamples for the interval of S_global, unless a module is told otherwise."""


class SegmentationModule(EvaluatedModule):
    """Train, evaluate and apply a segmentation network on batches of :mod:`erode.batch`.

    Args:
        network: maps ``[B, C, *spatial]`` to logits ``[B, K, *spatial]``; None = a MONAI ``UNet`` of 52 k
            parameters with instance normalisation (no running statistics that could carry a forget set).
        num_classes: K, background included.
        spatial_dims: 2 or 3; for the default network and the sliding window.
        in_channels: C; for the default network.
        class_names: names of the K classes for logs and pictures, background first.
        positive_class: class whose presence image-level AUROC ranks; None = the last.
        loss: called with logits and batch; None = :class:`~erode.losses.RoleLoss`.
        optimizer: builds the optimiser from parameters.
        lr_scheduler: builds a scheduler, stepped every epoch, from the optimiser; ``"cosine"`` = from the
            optimiser's rate to zero over the steps of the run; None = constant.
        patch_size: images larger than this along any axis are evaluated by a sliding window of this size.
        bootstrap: resamples for the interval of S_global in test runs.

    Raises:
        ValueError: for arguments that contradict each other, and for batches that break the contract.

    Example:
        >>> SegmentationModule(num_classes=3)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    validation: Evaluation
    testing: Evaluation

    def __init__(
        self,
        network: nn.Module | None = None,
        num_classes: int = 2,
        spatial_dims: Literal[2, 3] = 2,
        in_channels: int = 3,
        class_names: Sequence[str] | None = None,
        positive_class: int | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        lr_scheduler: LRSchedulerCallable | Literal["cosine"] | None = "cosine",
        patch_size: Sequence[int] | None = None,
        bootstrap: int = BOOTSTRAP,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes counts the background, so it is at least 2; got {num_classes}")
        names = list(class_names or ["background", *(f"class {k}" for k in range(1, num_classes))])
        if len(names) != num_classes:
            raise ValueError(f"{num_classes} classes need as many class_names, background included; got {names}")
        positive = num_classes - 1 if positive_class is None else positive_class
        if not 0 < positive < num_classes:
            raise ValueError(f"positive_class must be one of 1..{num_classes - 1}, got {positive_class}")
        if patch_size is not None and len(patch_size) != spatial_dims:
            raise ValueError(f"patch_size needs {spatial_dims} entries, got {list(patch_size)}")
        self.save_hyperparameters(logger=False, ignore=("network", "loss"))
        self.keep_plain_hyperparameters()
        # Some networks have a length, and may be empty: compiled ones ask theirs.
        self.network = default_network(num_classes, spatial_dims, in_channels) if network is None else network
        self._default_channels = in_channels if network is None else None
        self.num_classes = num_classes
        self.class_names = names
        self.loss = loss or RoleLoss()
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self._window = None if patch_size is None else SlidingWindowInferer(patch_size, overlap=0.25, mode="gaussian")
        self._patch_size = patch_size
        self.validation = Evaluation(names, positive)
        self.testing = Evaluation(names, positive, bootstrap)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``[B, K, *spatial]`` of images ``[B, C, *spatial]``."""
        if self._window is None or self.training or not self._exceeds_patch(image):
            return self.network(image)  # type: ignore[no-any-return]
        return cast(Tensor, self._window(image, self.network))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        self.check_once(batch)
        loss = self.loss_of(self(batch["image"]), batch)
        self.log("train/loss", loss, batch_size=len(batch["image"]))
        return loss

    def loss_of(self, output: Tensor, batch: dict[str, Any]) -> Tensor:
        """The loss of what :meth:`forward` returned; networks with deep supervision weigh coarser outputs by halves.

        Operators with a loss of their own ask for it, to train on what is retained as this module does.
        """
        image = batch["image"]
        # DynUNet stacks its supervision heads: [B, heads, K, *spatial]
        heads = output.unbind(1) if output.ndim == image.ndim + 1 else [output]
        weights = [0.5**head for head in range(len(heads))]
        losses = [self.loss(self.checked(head, image), batch) for head in heads]
        return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        """The optimiser and, if asked for, its scheduler."""
        steps = int(self.trainer.estimated_stepping_batches) if self._make_scheduler == "cosine" else 0
        return with_schedule(self._make_optimizer(self.parameters()), self._make_scheduler, steps)

    def arguments(self) -> dict[str, Any]:
        """What another module takes to train the same network, not a copy, with the same loss and optimiser."""
        plain = {name: self.hparams[name] for name in ("spatial_dims", "in_channels", "num_classes", "bootstrap")}
        return {
            **plain,
            "network": self.network,
            "class_names": self.class_names,
            "positive_class": self.hparams["positive_class"],
            "loss": self.loss,
            "optimizer": self._make_optimizer,
            "lr_scheduler": self._make_scheduler,
            "patch_size": self._patch_size,
        }

    def describe(self) -> dict[str, Any]:
        """What determines its training and its numbers, as plain values, for records and digests.

        How it is evaluated stands there where it is not the default, so that older records keep their digests.
        """
        positive = self.hparams["positive_class"]
        evaluation = {
            "patch_size": None if self._patch_size is None else list(self._patch_size),
            "positive_class": None if positive == self.num_classes - 1 else positive,
            "bootstrap": None if self.hparams["bootstrap"] == BOOTSTRAP else self.hparams["bootstrap"],
        }
        return {
            "network": type(self.network).__name__,
            "parameters": sum(p.numel() for p in self.parameters() if p.requires_grad),
            "layers": digest_of([str(self.network), module_settings(self.network)]),
            "loss": module_settings(self.loss),
            "optimizer": " ".join(str(self._make_optimizer(self.parameters())).split()),
            "lr_scheduler": schedule_settings(self._make_scheduler, self._make_optimizer, self.parameters()),
            **{name: value for name, value in evaluation.items() if value is not None},
        }

    def check_first(self, batch: dict[str, Any]) -> None:
        """Refuse entries that are not those of :mod:`erode.batch`, and images that the default network cannot take."""
        check_batch(batch, self.num_classes)
        self._check_default_network(batch["image"])

    def _check_default_network(self, image: Tensor) -> None:
        if self._default_channels is None:
            return
        channels, *size = image.shape[1:]
        if channels != self._default_channels:
            raise ValueError(f"images have {channels} channels, the network {self._default_channels}; set in_channels")
        if any(side % DIVISOR for side in size):
            raise ValueError(
                f"images of {size} pixels: the default network needs multiples of {DIVISOR}; set their size"
            )

    def checked(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits whose classes are not the model's would train, and mean something else."""
        expected = (len(image), self.num_classes, *image.shape[2:])
        if tuple(logits.shape) != expected:
            raise ValueError(
                f"{type(self.network).__name__} gives logits {list(logits.shape)} where num_classes = "
                f"{self.num_classes} needs {list(expected)}; make it return one channel per class, background "
                "included, and as many pixels as the image"
            )
        return logits

    def _exceeds_patch(self, image: Tensor) -> bool:
        assert self._patch_size is not None
        return any(size > patch for size, patch in zip(image.shape[2:], self._patch_size, strict=True))


def default_network(num_classes: int, spatial_dims: int = 2, in_channels: int = 3) -> nn.Module:
    """A MONAI ``UNet`` of four levels and about 52 k parameters (2-D)."""
    return UNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=num_classes,
        channels=(8, 16, 32, 64),
        strides=(2, 2, 2),
        num_res_units=1,
    )
