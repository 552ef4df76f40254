"""Reading the training set itself, beside the batches: no more of it than the loader serves, and before all eyes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from .lightning_state import callbacks_of


def why_partial(loader: DataLoader[Any], trainer: Any) -> str | None:
    """Why a run may leave out images of its loader's data set for good, in words with a remedy; None = it does not.

    Who reads ``loader.dataset`` itself would read those too, although no batch ever holds them, and whatever is said of
    batches (that they hold retained data, that they were counted) would not be true of them. Known to serve every image
    sooner or later are torch's samplers over the whole data set: in order, at random, by weights
    above 0, or shared out among the processes of this run; and samplers of a class with ``serves_all = True``. Anything
    else counts as partial, and so does an order that never changes and whose end is never reached, as the loader drops
    it or ``limit_train_batches`` comes first.

    Args:
        loader: of training.
        trainer: of the run; one of ``fast_dev_run`` releases nothing, so its limits do not matter.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        >>> why_partial(DataLoader(range(4), shuffle=True), trainer) is None
        True
        >>> print(why_partial(DataLoader(range(4), sampler=torch.utils.data.SubsetRandomSampler([0, 1])), trainer))
        SubsetRandomSampler may leave out images of the data set for good; ...
    """
    if not hasattr(loader.dataset, "__len__"):
        return (
            f"{type(loader.dataset).__name__} has no length, so nobody can read all of it and be sure of that; give a "
            "data set with __len__ and __getitem__"
        )
    size = len(loader.dataset)
    batches = loader.batch_sampler
    sampler = loader.sampler if batches is None else getattr(batches, "sampler", None)
    why = None
    if batches is not None and type(batches) is not BatchSampler:
        why = type(batches).__name__
    elif not _covers(sampler, size, trainer.world_size):
        why = type(sampler).__name__
    elif len(loader) == 0:
        why = "drop_last with batches larger than the set"
    elif _fixed(sampler) and _end_left_out(loader, sampler, trainer):
        why = f"{type(sampler).__name__}, whose end is dropped or beyond limit_train_batches,"
    if why is None:
        return None
    return (
        f"{why} may leave out images of the data set for good; choose images by torch.utils.data.Subset(dataset, "
        "indices) instead, with shuffle=True or no sampler (and drop_last=False where the order is fixed)"
    )


def untransformed(dataset: Any) -> Any:
    """A data set without the random transforms of training, where it can be had so (``untransformed()``).

    Whatever is measured of the training images, a mean or a model's errors, is measured of the images themselves.

    Example:
        >>> untransformed([1, 2])
        [1, 2]
    """
    plain = getattr(dataset, "untransformed", None)
    return plain() if callable(plain) else dataset


def announce(trainer: Any, module: Any, batch: Any) -> None:
    """Show images that were read beside the batches of training to every callback that asks for them.

    Whoever reads the training set on its own account calls this with what it read, in the form of batches and before
    it uses them: ledgers count them, operators refuse those that were to be forgotten.

    Args:
        trainer: whose callbacks with a method ``on_read_beside(trainer, module, batch)`` are called.
        module: in training.
        batch: as the loader would have collated it.
    """
    for callback in callbacks_of(trainer):
        if callable(see := getattr(callback, "on_read_beside", None)):
            see(trainer, module, batch)


def _covers(sampler: Any, size: int, processes: int) -> bool:
    """Whether every index may be drawn, by one of the processes."""
    kind = type(sampler)
    if kind in (SequentialSampler, RandomSampler):
        return len(sampler.data_source) == size
    if kind is WeightedRandomSampler:
        return len(sampler.weights) == size and bool((torch.as_tensor(sampler.weights) > 0).all())
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas != processes:
        return False  # shares that no process of this run takes
    if isinstance(sampler, DistributedSampler) and hasattr(sampler.dataset, "_sampler"):
        return _covers(sampler.dataset._sampler, size, processes)  # Lightning shares out what another sampler draws
    return (kind is DistributedSampler or getattr(kind, "serves_all", False)) and len(sampler.dataset) == size


def _fixed(sampler: Any) -> bool:
    """Whether the order never changes."""
    if isinstance(sampler, DistributedSampler):
        inner = getattr(sampler.dataset, "_sampler", None)
        return type(inner) is SequentialSampler if inner is not None else not sampler.shuffle
    return type(sampler) is SequentialSampler


def _end_left_out(loader: DataLoader[Any], sampler: Any, trainer: Any) -> bool:
    """Whether the end of the order is in no batch that the run takes."""
    if isinstance(sampler, DistributedSampler) and sampler.drop_last and len(sampler.dataset) % sampler.num_replicas:  # type: ignore[arg-type]  # Dataset declares no __len__
        return True
    batches = loader.batch_sampler
    if isinstance(batches, BatchSampler) and batches.drop_last and len(sampler) % batches.batch_size:
        return True
    limit, whole = trainer.limit_train_batches, len(loader)
    taken = int(limit * whole) if isinstance(limit, float) else limit
    return not trainer.fast_dev_run and taken < whole
