"""The loss of the module on its training data, outside the training loop: gradient and curvature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor
from torch.nn import Parameter
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import DataLoader

from ...curvature import Product, hessian_product, loss_gradient


class RetainedLoss:
    """Gradient and Hessian-vector products of ``training_step`` over the loader of a run that has begun.

    Averages are over all processes, so every one gets the same vectors. Dropout is off and logging silent meanwhile.
    The loss is the batch mean that ``training_step`` returns.

    Args:
        trainer: whose training loader is in place.
        module: the module.
        weights: by which is differentiated.
        check: called with each batch before its use, to refuse it.

    Raises:
        MisconfigurationException: if the training data do not come from one loader that ends.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        weights: Sequence[Parameter],
        check: Callable[[Any, int], None],
    ) -> None:
        if not isinstance(trainer.train_dataloader, DataLoader):
            raise MisconfigurationException(
                f"CNS needs one DataLoader of retained data, got {type(trainer.train_dataloader).__name__}: it reads "
                "all batches before the first step, several times over; give fit a single DataLoader"
            )
        if math.isinf(trainer.num_training_batches):
            raise MisconfigurationException(
                "CNS reads all retained data before the first step, and this loader does not say where they end; give "
                "its data set a length, or Trainer(limit_train_batches=N)"
            )
        self._trainer = trainer
        self._module = module
        self._weights = weights
        self._check = check
        self.products_taken = 0
        """Hessian-vector products, each of one batch."""
        self.evaluations = 0
        """Gradient evaluations of one batch; a Hessian-vector product counts as two."""

    def gradient(self) -> Tensor:
        """Gradient ``[d]`` of the mean loss over all data."""
        total = torch.zeros(sum(w.numel() for w in self._weights), device=self._module.device)
        seen = torch.zeros((), device=self._module.device)
        for index, batch in enumerate(self._batches()):
            size = extract_batch_size(batch)
            self.evaluations += 1
            total = total + size * loss_gradient(self._loss(batch, index), self._weights)
            seen += size
        return self._over_processes(total, "sum") / self._over_processes(seen, "sum")

    def products(self) -> Iterator[Product]:
        """The Hessian on one batch after another (of all processes together), for ever."""
        while True:
            for index, batch in enumerate(self._batches()):
                yield self._product([(batch, index)])

    def mean_product(self, batches: int) -> Product:
        """The mean Hessian over the first ``batches`` batches."""
        kept = [(batch, index) for index, batch in zip(range(batches), self._batches(), strict=False)]
        return self._product(kept)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Dropout off, no logging: these passes are no training steps."""
        active = [layer for layer in self._module.modules() if isinstance(layer, _DropoutNd) and layer.training]
        silenced = {"log": _silent, "log_dict": _silent}
        for name, silent in silenced.items():
            setattr(self._module, name, silent)
        for layer in active:
            layer.eval()
        try:
            yield
        finally:
            for name in silenced:
                delattr(self._module, name)
            for layer in active:
                layer.train()

    def _product(self, batches: Sequence[tuple[Any, int]]) -> Product:
        def multiply(vector: Tensor) -> Tensor:
            self.products_taken += len(batches)
            self.evaluations += 2 * len(batches)
            parts = [hessian_product(self._loss(batch, index), self._weights, vector) for batch, index in batches]
            return self._over_processes(torch.stack(parts).mean(0), "mean")

        return multiply

    def _loss(self, batch: Any, index: int) -> Tensor:
        with torch.enable_grad(), self._trainer.precision_plugin.train_step_context():
            output: Any = self._module.training_step(batch, index)
        loss: Tensor = output["loss"] if isinstance(output, dict) else output
        return loss

    def _batches(self) -> Iterator[Any]:
        loader: Any = self._trainer.train_dataloader  # checked above
        for index, batch in enumerate(itertools.islice(loader, int(self._trainer.num_training_batches))):
            self._check(batch, index)
            converted = self._trainer.precision_plugin.convert_input(batch)
            converted = self._module._on_before_batch_transfer(converted, dataloader_idx=0)
            yield self._trainer.strategy.batch_to_device(converted, dataloader_idx=0)

    def _over_processes(self, value: Tensor, how: str) -> Tensor:
        reduced: Tensor = self._trainer.strategy.reduce(value, reduce_op=how)
        return reduced


def _silent(*arguments: Any, **keywords: Any) -> None:
    """Log nothing."""
