"""A data set without its masks: what label-free pretraining may see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, RandomSampler

from .augmentation import random_flips
from .base import MaskDataModule
from .case import Arrays, Case, Part
from .dataset import EvaluationSampler, Item
from .loading import SteadyLoader, own_generator


class ImagesOnly(LightningDataModule):
    """Serves the images of a DataModule of ours and nothing that was drawn or said about them.

    Batches hold ``image``, ``id`` and ``counted``. Images are drawn as they come, whatever ``class_balance`` says, and
    only mirrored: a ``transform`` of the data could look at masks, and is left out.

    Args:
        data: where the images come from; its ``batch_size``, ``flips`` and ``num_workers`` are used.

    Example:
        >>> from erode.datamodules import SyntheticDermoscopy
        >>> data = ImagesOnly(SyntheticDermoscopy(train_images=16))
        >>> sorted(next(iter(data.train_dataloader())))
        ['counted', 'id', 'image']
    """

    def __init__(self, data: MaskDataModule) -> None:
        super().__init__()
        self.data = data

    def prepare_data(self) -> None:
        """Read every file once and report every problem."""
        self.data.prepare_data()

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled batches; the last incomplete one is dropped."""
        dataset = self._dataset("train")
        return self._loader(dataset, sampler=RandomSampler(dataset), drop_last=len(dataset) > self.data.batch_size)

    def val_dataloader(self) -> DataLoader[Item]:
        """The validation images."""
        dataset = self._dataset("val")
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return self._loader(dataset, sampler=EvaluationSampler(dataset) if distributed else None)

    def on_after_batch_transfer(self, batch: Item, dataloader_idx: int) -> Item:
        """Mirror training batches on the device."""
        training = self.trainer is not None and self.trainer.training
        return random_flips(batch) if self.data.flips and training else batch

    def _dataset(self, part: Part) -> ImageDataset:
        return ImageDataset(self.data.part(part), self.data.pixels, self.data.cache)

    def _loader(self, dataset: ImageDataset, **options: Any) -> DataLoader[Item]:
        workers = self.data.num_workers
        return SteadyLoader(
            dataset,
            self.data.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=own_generator(workers),
            **options,
        )


class ImageDataset(Dataset[Item]):
    """Images and their ids.

    Args:
        cases: what to serve, in order.
        read: the pixels of a case.
        cache: keep images in memory once they are read.
    """

    def __init__(self, cases: Sequence[Case], read: Callable[[Case], Arrays], cache: bool = True) -> None:
        self.cases = list(cases)
        self._read = read
        self._images: dict[int, torch.Tensor] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Item:
        counted = index >= 0
        index = index if counted else -1 - index
        image = None if self._images is None else self._images.get(index)
        if image is None:
            image = torch.from_numpy(self._read(self.cases[index]).image.copy())
            if self._images is not None:
                self._images[index] = image
        return {"image": image, "id": self.cases[index].id, "counted": torch.tensor(counted)}
