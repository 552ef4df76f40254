"""Callbacks that change what a trained network sees, between a module and its own forward pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from ..batches.entries import Key, class_map, entry

Forward = Callable[[Tensor], Tensor]


class DebiasedInput(Callback):
    """While a module is tested, validated on its own or used for prediction, wrap its ``forward``.

    The lesion is what the module itself predicts on the image as it came; for a classifier, what a segmentation
    predicts, or a mask that stands in the batch. Training is left alone, and so is validation during training, unless
    :attr:`training` is set. ``forward`` is put back afterwards. Works with any module whose steps call ``self(image)``.

    Args:
        mask_key: where a batch keeps the masks to use, integer ``[B, *spatial]``, 0 = background; None = the module's
            own prediction, or that of ``segmenter``.
        segmenter: trained, gives logits ``[B, K, *spatial]``; None = the module itself.

    Raises:
        ValueError: for both, ``mask_key`` and ``segmenter``.
        MisconfigurationException: beside another such callback, if the module's steps do not call its ``forward``, if
            that returns no logits ``[B, K, *spatial]`` to make a mask of, or if a batch lacks its mask.
    """

    training = False
    """Whether training sees the changed images too."""

    def __init__(self, mask_key: Key | None = None, segmenter: nn.Module | None = None) -> None:
        if mask_key is not None and segmenter is not None:
            raise ValueError("masks stand in the batch, or a segmenter predicts them: give mask_key or segmenter")
        self.mask_key = mask_key
        self.segmenter = segmenter
        self._given: Tensor | None = None
        self._wrapped: LightningModule | None = None
        self._calls = 0

    @abstractmethod
    def debiased(self, forward: Forward, image: Tensor, foreground: Tensor) -> Tensor:
        """The module's output for images ``[B, C, *spatial]``, lesions at ``foreground``, bool ``[B, *spatial]``."""

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Gather what is needed, before the first batch."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._wrap(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._wrap(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, where validation is a run of its own."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._wrap(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, where training sees the changed images too."""
        if self.training:
            self._wrap(trainer, pl_module)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note the masks of the batch."""
        self._note(batch)

    on_predict_batch_start = on_validation_batch_start = on_test_batch_start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the masks of the batch."""
        self._note(batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Refuse a module that went past its own ``forward``: nothing would have changed."""
        if self._wrapped is not None and self._calls == 0:
            raise MisconfigurationException(
                f"{type(pl_module).__name__} did not call its forward, so {type(self).__name__} changed nothing; let "
                "its steps call self(image)"
            )

    on_predict_batch_end = on_validation_batch_end = on_test_batch_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put ``forward`` back."""
        self._unwrap()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put ``forward`` back."""
        self._unwrap()

    def _wrap(self, trainer: Trainer, module: LightningModule) -> None:
        self._unwrap()
        if "forward" in vars(module):
            raise MisconfigurationException(
                f"the forward of {type(module).__name__} is replaced already; use one of these callbacks at a time"
            )
        self.prepare(trainer, module)
        forward: Forward = module.forward
        segment = forward if self.segmenter is None else self.segmenter.to(module.device).eval()
        self._calls = 0

        def debiased_forward(image: Tensor) -> Tensor:
            self._calls += 1
            return self.debiased(forward, image, self._foreground(segment, image, module))

        self._wrapped = module
        module.forward = debiased_forward  # type: ignore[method-assign]

    def _unwrap(self) -> None:
        if self._wrapped is not None:
            self._wrapped.__dict__.pop("forward", None)
            self._wrapped = None

    def _note(self, batch: Any) -> None:
        if self._wrapped is not None and self.mask_key is not None:
            self._given = entry(batch, self.mask_key, "mask_key")

    def _foreground(self, segment: Forward, image: Tensor, module: LightningModule) -> Tensor:
        if self.mask_key is not None:
            assert self._given is not None
            return class_map(self._given, image) > 0
        with torch.no_grad():
            logits = segment(image)
        if not isinstance(logits, Tensor) or logits.shape[2:] != image.shape[2:]:
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            who = type(module if self.segmenter is None else self.segmenter).__name__
            raise MisconfigurationException(
                f"{who}(image) returned {shape}, which is no mask of the image {list(image.shape)}; "
                "set mask_key to where a batch keeps one, or segmenter to a module that predicts it"
            )
        return logits.argmax(1) > 0
