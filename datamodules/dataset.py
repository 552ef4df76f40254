"""Cases to batches: reads, coarsens, serves one view, and remembers what it read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from ..batch import FIELDS, UNKNOWN_ARTEFACT, UNKNOWN_FLAG
from ..masks import Coarsening, PositionPrior, View, serve
from .case import Arrays, Case
from .randomness import random_parts, seed_parts

PIXEL_KEYS = ("image", *(key for key, field in FIELDS.items() if field.per_pixel))
"""Keys that a spatial augmentation has to move together."""

Item = dict[str, Any]


class MaskDataset(Dataset[Item]):
    """Items of one part of the data under one view (theory §1, §2).

    Args:
        cases: what to serve, in order.
        read: reads the pixels of a case.
        coarsening: derives the coarse mask of a case that brings none.
        view: which labels are served.
        fine_ids: cases whose fine mask may be used (F of theory §1).
        prior: position prior of the retain view.
        flag: name of the artefact flag that becomes ``flag``.
        cache: keep every item in memory once it was read.
        transform: applied to each item; sees per-pixel entries as ``[channels, *spatial]`` tensors. If it is random as
            MONAI's are, every item gets a seed of its own from torch's generator, in place of any that it was given.

    An index ``-1 - i`` stands for a copy of item ``i`` that metrics must not count (``counted`` is False).
    """

    def __init__(
        self,
        cases: Sequence[Case],
        read: Callable[[Case], Arrays],
        coarsening: Coarsening,
        view: View,
        *,
        fine_ids: frozenset[str] = frozenset(),
        prior: PositionPrior | None = None,
        flag: str = "any",
        cache: bool = True,
        transform: Callable[[Item], Item] | None = None,
    ) -> None:
        self.cases = list(cases)
        self._read = read
        self._coarsening = coarsening
        self._view = view
        self._fine_ids = fine_ids
        self._prior = prior
        self._flag = flag
        self._flags = tuple(dict.fromkeys(name for case in self.cases for name in case.flags))
        self._items: dict[int, Item] | None = {} if cache else None
        self._transform = transform
        self._random = random_parts(transform)
        self.rank = 0
        """Process that serves these items: others transform theirs in other ways."""

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Item:
        counted = index >= 0
        index = index if counted else -1 - index
        item = None if self._items is None else self._items.get(index)
        if item is None:
            item = self._load(self.cases[index])
            if self._items is not None:
                self._items[index] = item
        item = {**item, "counted": torch.tensor(counted)}
        if self._transform is None:
            return item
        if self._random:
            seed_parts(self._random, self.rank)
        return _with_channels(item, self._transform)

    def untransformed(self) -> MaskDataset:
        """The same items without ``transform``, for whatever measures the data; what was read is shared."""
        plain = copy.copy(self)
        plain._transform, plain._random = None, []
        return plain

    def _load(self, case: Case) -> Item:
        arrays = self._read(case)
        fine, coarse = arrays.mask, arrays.coarse
        if coarse is None:
            if fine is None:
                raise ValueError(f"{case.id}: neither a fine nor a coarse mask; remove the case or add a mask")
            coarse = self._coarsening(fine)
        served = serve(
            self._view,
            fine=fine,
            coarse=coarse,
            label=case.label,
            is_fine=case.id in self._fine_ids,
            prior=self._prior,
        )
        artefact = arrays.artefact
        if artefact is None:
            artefact = np.full(coarse.shape, UNKNOWN_ARTEFACT, np.uint8)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(arrays.image)),
            "mask": torch.from_numpy(served.mask),
            "coarse": torch.from_numpy(served.coarse),
            "role": torch.from_numpy(served.role),
            "prior": torch.from_numpy(served.prior),
            "artefact": torch.from_numpy(artefact),
            "label": torch.tensor(case.label),
            "flag": torch.tensor(case.flags.get(self._flag, UNKNOWN_FLAG)),
            "flags": {name: torch.tensor(case.flags.get(name, UNKNOWN_FLAG)) for name in self._flags},
            "group": torch.tensor(case.group_number),
            "id": case.id,
        }


def _with_channels(item: Item, transform: Callable[[Item], Item]) -> Item:
    """Apply a dictionary transform that expects a channel axis, as MONAI's do."""
    masks = [key for key in PIXEL_KEYS if key != "image"]
    # Copies, for some transforms write into what they are given (MONAI's dropouts), and that is what the cache holds.
    changed = transform({**item, "image": item["image"].clone(), **{key: item[key][None].clone() for key in masks}})
    plain = {key: _plain(changed[key])[0].to(FIELDS[key].dtype) for key in masks}
    return {**changed, **plain, "image": _plain(changed["image"]).float()}


def _plain(value: Any) -> Tensor:
    """A contiguous tensor without the metadata that MONAI's transforms attach."""
    tensor = value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)
    return tensor.contiguous()


class EvaluationSampler(DistributedSampler[int]):
    """Each rank's share of an evaluation set, padded to equal length with items marked as copies.

    Lightning's default sampler pads with items that metrics then count twice; unequal lengths would hang
    networks whose buffers are synchronised in the forward pass. This one does neither.

    Args:
        dataset: what to share out.
        num_replicas: number of processes; None = that of the process group.
        rank: this process; None = that of the process group.
        shuffle: another order in every epoch, for training on data whose copies must not count.
        seed: seed of that order, the same on every rank.

    Example:
        >>> [list(EvaluationSampler(range(3), num_replicas=2, rank=r)) for r in range(2)]
        [[0, 2], [1, -1]]
    """

    serves_all = True
    """Every image is in the share of some process (:func:`erode.whole_set.why_partial`)."""

    def __init__(
        self,
        dataset: Any,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=shuffle, seed=seed)

    def __iter__(self) -> Any:
        """Indices of this rank; ``-1 - i`` is an uncounted copy of item i."""
        size = len(self.dataset)  # type: ignore[arg-type]  # Dataset declares no __len__
        order = list(range(size))
        if self.shuffle:
            order = torch.randperm(size, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        shared = (*order, *(-1 - order[i % size] for i in range(self.total_size - size)))
        return iter(shared[self.rank :: self.num_replicas])
