"""Loaders of one part of the data: who is drawn how often, on one process or on many."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler

from .dataset import EvaluationSampler, Item, MaskDataset


class SteadyLoader(DataLoader[Item]):
    """A loader that takes the same numbers of torch's generator in the same order, however many workers it has.

    Without workers, torch draws the workers' seed whenever an epoch begins, and the sampler draws its order at the
    first batch. Workers that persist would be seeded in the first epoch alone, and orders drawn as early as the seed:
    all that the run draws after that, orders and mirror images, would be others. So here each epoch takes one number
    when it begins, with workers too, and they start at its first batch.

    With workers it needs a generator of its own, which that number seeds: :func:`own_generator`.
    """

    def __iter__(self) -> Any:
        """Batches of one epoch."""
        if self.num_workers == 0:
            return super().__iter__()
        return self._started_late(int(torch.empty((), dtype=torch.int64).random_()))

    def _started_late(self, seed: int) -> Iterator[Any]:
        self.generator.manual_seed(seed)
        yield from super().__iter__()


def own_generator(num_workers: int) -> torch.Generator | None:
    """What seeds the workers of a :class:`SteadyLoader`; None without any."""
    return torch.Generator() if num_workers else None


def loader(
    dataset: MaskDataset, batch_size: int, num_workers: int, sampler: Sampler[int] | None, drop_last: bool
) -> DataLoader[Item]:
    """Batches of a data set; without a sampler in order, each image on one process."""
    if _distributed():
        dataset.rank = torch.distributed.get_rank()
        sampler = EvaluationSampler(dataset) if sampler is None else sampler
    return SteadyLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=own_generator(num_workers),
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
