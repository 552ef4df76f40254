"""Loaders of one part of the data: who is drawn how often, on one process or on many."""

from __future__ import annotations

import os
from collections import Counter

import torch
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler

from .dataset import EvaluationSampler, Item, MaskDataset


def loader(
    dataset: MaskDataset, batch_size: int, num_workers: int, sampler: Sampler[int] | None, drop_last: bool
) -> DataLoader[Item]:
    """Batches of a data set; without a sampler in order, each image on one process."""
    if _distributed():
        dataset.rank = torch.distributed.get_rank()
        sampler = EvaluationSampler(dataset) if sampler is None else sampler
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def training_sampler(dataset: MaskDataset, class_balance: float) -> Sampler[int]:
    """Class k of n_k images is drawn in proportion to ``n_k^(1 - class_balance)``; 0 = as they come."""
    if class_balance == 0:
        return RandomSampler(dataset)
    labels = [case.label for case in dataset.cases]
    count = Counter(labels)
    return WeightedRandomSampler([count[label] ** -class_balance for label in labels], len(labels))


def forget_sampler(dataset: MaskDataset) -> Sampler[int]:
    """At random, and on many processes without the copies by which Lightning would pad: they would push twice."""
    if _distributed():
        return EvaluationSampler(dataset, shuffle=True, seed=int(os.environ.get("PL_GLOBAL_SEED", "0")))
    return RandomSampler(dataset)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
