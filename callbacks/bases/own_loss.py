"""Operators with a loss of their own: they take over the module's training step, and give it back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from ..batches.atom_batches import BatchKeys, LabelledPixels, mean_over
from .collapse_guard import CollapseGuard
from .operator import UnlearningOperator
from .running_statistics import Kept, restore


class OwnLoss(UnlearningOperator, base=True):
    """An operator that replaces the module's ``training_step`` while its run lasts.

    The module is called on images and the operator's :meth:`loss` applied; the user's optimiser, scheduler and
    precision stay. The training step is put back at the end.

    Args:
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        MisconfigurationException: for manual optimisation.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__(folder)
        self._own_step: Callable[..., Any] | None = None
        self._replaced = False
        self._kept: Kept = []

    @abstractmethod
    def loss(self, trainer: Trainer, module: LightningModule, batch: Any) -> tuple[Tensor, int]:
        """The loss of a batch, and how many images it is of."""

    def statistics_held(self) -> AbstractContextManager[None]:
        """Within it, forget data go through the network without a trace in its running statistics."""
        return nullcontext() if self._statistics is None else self._statistics.held()

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse manual optimisation: the operator's loss would never be seen."""
        if not module.automatic_optimization:
            raise MisconfigurationException(
                f"{type(module).__name__} optimises manually, so {type(self).__name__} cannot replace its loss; "
                "set automatic_optimization = True for the unlearning run"
            )

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Take over the training step."""
        self._own_step = module.__dict__.get("training_step")

        def training_step(batch: Any, *_: Any) -> Tensor:
            loss, images = self.loss(trainer, module, batch)
            self._kept = [] if self._statistics is None else self._statistics.kept()
            module.log("train/loss", loss, batch_size=images)
            return loss

        training_step.of_operator = type(self).__name__  # type: ignore[attr-defined]  # see check_loop
        module.training_step = training_step  # type: ignore[method-assign]
        self._replaced = True

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Undo what activation checkpointing did to running statistics: it takes forward passes, of any data, again."""
        restore(self._kept)
        self._kept = []

    def put_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Give the training step back."""
        super().put_back(trainer, module)
        self._kept = []
        if self._replaced:
            module.__dict__.pop("training_step", None)
            if self._own_step is not None:
                module.training_step = self._own_step  # type: ignore[method-assign]
        self._own_step, self._replaced = None, False


class GuardedLoss(OwnLoss, base=True):
    """An own loss that may run away: every ``check_every`` batches the predicted foreground is compared with the fine.

    Once the ratio falls below ``collapse_ratio`` the last weights at which it had not are restored, and training
    stops. Subclasses show each batch to :attr:`guard`.

    Args:
        collapse_ratio: smallest predicted-to-fine foreground ratio that still counts as well; 0 = no guard.
        check_every: batches from one look of the guard to the next.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(self, collapse_ratio: float, check_every: int, folder: str | Path | None = None) -> None:
        super().__init__(folder)
        if not 0 <= collapse_ratio < 1:
            raise ValueError(f"collapse_ratio must lie in [0, 1), got {collapse_ratio}; 0 switches the guard off")
        if check_every < 1:
            raise ValueError(f"check_every must be at least 1 batch, got {check_every}")
        self.collapse_ratio = collapse_ratio
        self.check_every = check_every
        self.guard = CollapseGuard(collapse_ratio)
        """Watches the predicted foreground."""
        self._batches = 0

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin to watch; take over the training step."""
        self.guard = CollapseGuard(self.collapse_ratio)
        self._batches = 0
        super().prepare(trainer, module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Every now and then, watch a batch and remember the weights it meets."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.collapse_ratio and self._batches % self.check_every == 0:
            self.guard.watch(pl_module)
        self._batches += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop on collapse; all ranks decide alike."""
        if self.guard.collapsed(trainer, pl_module):
            trainer.should_stop = True

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What the guard did."""
        return {"collapse_guard": self.guard.report}


def label_loss(
    trainer: Trainer, module: LightningModule, output: Any, atoms: LabelledPixels, batch: Any, keys: BatchKeys
) -> Tensor:
    """How far a module is from the retained labels, by the loss it was trained with where that can be told.

    A module with a method ``loss_of(output, batch)``, as :class:`~erode.lightning_modules.SegmentationModule`, says so
    for batches as :mod:`erode.batch` defines them, under the usual keys. Its mean is that of a process, as in training.
    Of anything else it is the mean cross-entropy of retained atoms, over all processes: what an operator was told of
    keys and roles is unknown to such a method.

    Args:
        trainer: of the run.
        module: the module.
        output: what its ``forward`` made of ``atoms.image``.
        atoms: retained ones.
        batch: they were read from.
        keys: by which they were read.
    """
    own = getattr(module, "loss_of", None)
    if callable(own) and keys == BatchKeys("image", "mask", "coarse", "role") and isinstance(batch, Mapping):
        loss: Tensor = own(output, batch)
        return loss
    logits = first_head(output, atoms.image, module).float()
    return mean_over(trainer, F.cross_entropy(logits, atoms.label, reduction="none"), atoms.where)


def logits_of(module: LightningModule, image: Tensor) -> Tensor:
    """Logits ``[B, K, *spatial]`` of images ``[B, C, *spatial]``, as the module's ``forward`` returns them.

    Raises:
        MisconfigurationException: if it returns anything else.
    """
    return first_head(module(image), image, module)


def first_head(logits: Any, image: Tensor, module: LightningModule) -> Tensor:
    """The output among supervision heads ``[B, heads, K, *spatial]``, which is the first; logits as they are."""
    if isinstance(logits, Tensor) and logits.ndim == image.ndim + 1:
        logits = logits[:, 0]
    if not isinstance(logits, Tensor) or logits.ndim != image.ndim or logits.shape[2:] != image.shape[2:]:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise MisconfigurationException(
            f"{type(module).__name__}(image) must return logits [B, K, *spatial] as large as the image "
            f"{list(image.shape)}, got {shape}; return them from forward"
        )
    return logits
