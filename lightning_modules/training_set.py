"""One pass over the training images, in order, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ..objectives import TrainingSet
from ..whole_set import announce, untransformed, why_partial


def read_training_set(
    trainer: Trainer, num_classes: int, classify: Callable[[Tensor], Tensor] | None = None
) -> TrainingSet:
    """Labels, flags and, if asked for, predictions of all images that the training loader draws from.

    Each process reads its share of the images, without the augmentation that a DataModule applies to items and batches,
    and announces it (:func:`erode.whole_set.announce`).

    Args:
        trainer: in the middle of a fit.
        num_classes: K.
        classify: gives classes ``[B]`` of images ``[B, C, *spatial]``, on their device; None = no predictions.

    Raises:
        MisconfigurationException: if training does not draw from one DataLoader over a map-style data set whose
            items hold ``id``, ``label`` and ``flag``, or if the loader may leave some of them out for good.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"an image classifier learns from one DataLoader, got {type(loader).__name__}; serve one view of the data"
        )
    if (why := why_partial(loader, trainer)) is not None:
        raise MisconfigurationException(f"the objective counts the classes and flags of the whole data set, and {why}")
    size = len(loader.dataset)  # type: ignore[arg-type]  # sized, or a sampler could not draw from it
    share = range(trainer.global_rank, size, trainer.world_size)
    whole: DataLoader[Any] = DataLoader(
        Subset(untransformed(loader.dataset), share), batch_size=loader.batch_size or 1, collate_fn=loader.collate_fn
    )
    rows: list[tuple[str, int, int, int]] = []
    for batch in whole:
        if missing := {"id", "label", "flag"} - set(batch):
            raise MisconfigurationException(f"training batches lack {sorted(missing)}; see erode.batch")
        announce(trainer, trainer.lightning_module, batch)
        device = trainer.strategy.root_device
        predicted = batch["label"] if classify is None else classify(batch["image"].to(device)).cpu()
        rows += zip(batch["id"], batch["label"].tolist(), batch["flag"].tolist(), predicted.tolist(), strict=True)
    shares = [rows]
    if dist.is_available() and dist.is_initialized():
        shares = [[] for _ in range(trainer.world_size)]
        dist.all_gather_object(shares, rows)
    # Dealt out in turn, so gathered in turn: the order of the data set.
    ordered = [shares[i % len(shares)][i // len(shares)] for i in range(size)]
    names, *columns = zip(*ordered, strict=True)
    labels, flags, guesses = (torch.tensor(column) for column in columns)
    return TrainingSet([str(name) for name in names], labels, flags, None if classify is None else guesses, num_classes)
