"""What modules with named classes share: data of other classes are refused, and each part has its set of metrics."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from ..lightning_state import datamodule_of


class EvaluatedModule(LightningModule):
    """Base of modules that are validated and tested by the same metrics, on batches of :mod:`erode.batch`.

    Subclasses set all attributes below and implement :meth:`evaluate`.
    """

    num_classes: int
    """K, class 0 included."""
    class_names: list[str]
    """Names of the K classes."""
    validation: Any
    """Metrics of validation runs: ``compute`` gives every value under the name it is logged by, ``reset`` forgets."""
    testing: Any
    """The same of test runs."""

    @abstractmethod
    def evaluate(self, metrics: Any, batch: dict[str, Any]) -> Tensor:
        """Add a batch to :attr:`validation` or :attr:`testing`; returns the logits."""

    def setup(self, stage: str) -> None:
        """Refuse data of other classes before anything is read."""
        names = getattr(datamodule_of(self.trainer), "class_names", None)
        if names is not None and len(names) != self.num_classes:
            raise ValueError(
                f"the data have {len(names)} classes {list(names)}, the model {self.num_classes}; "
                f"set num_classes={len(names)} and, if given, as many class_names"
            )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Add a batch to the validation metrics; returns the logits."""
        return self.evaluate(self.validation, batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Add a batch to the test metrics; returns the logits."""
        return self.evaluate(self.testing, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_all("val", self.validation)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_all("test", self.testing)

    def _log_all(self, prefix: str, metrics: Any) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{prefix}/{name}", value.float(), sync_dist=True)
        metrics.reset()
