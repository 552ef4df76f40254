"""Background normalisation: every image gets the mean background of the training images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from ..debiasing import background_mean, replace_background
from ..lightning_state import datamodule_of
from ..whole_set import announce, untransformed, why_partial
from .bases.debiased_input import DebiasedInput, Forward
from .batches.entries import Key, class_map, entry


class BackgroundNormalisation(DebiasedInput):
    """Keep the lesion and replace what surrounds it by the mean background of the training images, pixel by pixel.

    The mean is taken once before the first batch, over the training images of the Trainer's DataModule; test images
    have no part in it. A segmentation network sees the image twice: as it is, which gives the lesion, and with the
    background replaced, which gives the output. An image without predicted lesion stays as it is. Artefacts that cross
    the lesion (hair) stay.

    Bissoto et al. use true masks of training and test images, and train on normalised images; for a classifier that is
    ``mask_key="mask", training=True``. A segmentation network must not: the pasted rim would give its target away.

    Args:
        mask_key: see :class:`~erode.callbacks.bases.debiased_input.DebiasedInput`.
        training: normalise training and its validation too; needs ``mask_key``.
        image_key: where a training batch keeps images.
        background_key: where it keeps the masks outside of which is background, integer ``[B, *spatial]``; coarse ones
            are right whatever view the data serve.

    Raises:
        MisconfigurationException: without a DataModule to take training images from, and see there.
        ValueError: for ``training`` without ``mask_key``.

    Source: Bissoto et al. 2020, Debiasing Skin Lesion Datasets and Models? Not So Fast (normalised background).

    Example:
        >>> BackgroundNormalisation(mask_key="mask", training=True).background is None
        True
    """

    def __init__(
        self,
        mask_key: Key | None = None,
        training: bool = False,
        image_key: Key = "image",
        background_key: Key = "coarse",
    ) -> None:
        super().__init__(mask_key)
        if training and mask_key is None:
            raise ValueError(
                "training on normalised images needs masks that do not change with the model: set mask_key"
            )
        self.training = training
        self.image_key = image_key
        self.background_key = background_key
        self.background: Tensor | None = None
        """Mean background ``[C, *spatial]``, once it was taken."""

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the mean over the training images, each once, none mirrored or transformed."""
        datamodule = datamodule_of(trainer)
        loader = None if datamodule is None else datamodule.train_dataloader()
        if not isinstance(loader, DataLoader):
            raise MisconfigurationException(
                "BackgroundNormalisation takes its background from the training images, and found "
                f"{'no DataModule' if datamodule is None else 'no single DataLoader of them'}; give the Trainer a "
                "DataModule whose train_dataloader returns one"
            )
        # In order and to the last image: a shuffled loader that drops some would give other digits each time.
        every: DataLoader[Any] = DataLoader(
            untransformed(loader.dataset), loader.batch_size or 1, collate_fn=loader.collate_fn
        )
        with torch.no_grad():
            shown = self._announced(trainer, module, loader, every) if self._teaches(trainer) else every
            self.background = background_mean(map(self._pair, shown)).to(module.device)

    def debiased(self, forward: Forward, image: Tensor, foreground: Tensor) -> Tensor:
        """Output for the image with the mean background."""
        assert self.background is not None
        return forward(replace_background(image, foreground, self.background))

    def _teaches(self, trainer: Trainer) -> bool:
        """Whether the mean enters weights; in a test it enters answers alone."""
        return self.training and trainer.state.fn == TrainerFn.FITTING

    @staticmethod
    def _announced(
        trainer: Trainer, module: LightningModule, loader: DataLoader[Any], every: DataLoader[Any]
    ) -> Iterator[Any]:
        if (why := why_partial(loader, trainer)) is not None:
            raise MisconfigurationException(f"BackgroundNormalisation reads the whole training set, and {why}")
        for batch in every:
            announce(trainer, module, batch)
            yield batch

    def _pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        image: Tensor = entry(batch, self.image_key, "image_key")
        return image, class_map(entry(batch, self.background_key, "background_key"), image) == 0
