"""The forget error: how often a model no longer says what the original labels of forget atoms say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from ..batches.atom_batches import BatchKeys
from ..batches.prediction import predict


class ForgetError:
    """Share of forget atoms whose predicted class is not the original label, over a data set.

    Every process takes its share of the images, none twice, and integer counts are added up: the value does not
    depend on the number of processes.

    Args:
        dataset: items as the forget loader serves them.
        like: a loader whose batch size, workers and collation are used.
        keys: where a batch keeps what is needed.
        argument: what the data are, for errors.

    Raises:
        MisconfigurationException: for data without a length.
    """

    def __init__(self, dataset: Dataset[Any], like: DataLoader[Any], keys: BatchKeys, argument: str) -> None:
        if isinstance(dataset, IterableDataset):
            raise MisconfigurationException(
                f"the {argument} come from an IterableDataset, of which no process can take a share that no other "
                "takes; serve them from a map-style dataset"
            )
        self._dataset = dataset
        self._like = like
        self._keys = keys
        self._argument = argument

    def __call__(self, trainer: Trainer, module: LightningModule) -> float:
        """Measure the module as it is.

        Raises:
            MisconfigurationException: where there is no forget atom.
        """
        counts = torch.zeros(2, dtype=torch.int64, device=module.device)
        with _as_validation(trainer):
            for batch in self._share(trainer):
                atoms = self._keys.forgotten(trainer.strategy.batch_to_device(batch))
                wrong = predict(trainer, module, atoms.image) != atoms.label
                counts += torch.stack([(wrong & atoms.where).sum(), atoms.where.sum()])
        wrong_atoms, atoms_in_all = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        if not atoms_in_all:
            raise MisconfigurationException(
                f"there is no forget atom in the {self._argument}, so no forget error; check role_key and coarse_key"
            )
        return float(wrong_atoms / atoms_in_all)

    def _share(self, trainer: Trainer) -> DataLoader[Any]:
        size = len(self._dataset)  # type: ignore[arg-type]  # Dataset declares no __len__
        mine = range(trainer.global_rank, size, trainer.world_size)
        return DataLoader(
            Subset(self._dataset, mine),
            batch_size=self._like.batch_size or 1,
            num_workers=self._like.num_workers,
            collate_fn=self._like.collate_fn,
            generator=torch.Generator(),  # the run's own random numbers go on as if nobody had looked
        )


@contextmanager
def _as_validation(trainer: Trainer) -> Iterator[None]:
    """Hooks on batches see a validation: none augments."""
    trainer.validating = True
    try:
        yield
    finally:
        trainer.training = True
