"""What modules with named classes share: data of other classes are refused, and each part has its set of metrics."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..lightning_state import datamodule_of


class EvaluatedModule(LightningModule):
    """Base of modules that are validated and tested by the same metrics, on batches of :mod:`erode.batch`.

    Subclasses set all attributes below and implement :meth:`forward`, :meth:`check_first` and :meth:`checked`.
    """

    num_classes: int
    """K, class 0 included."""
    class_names: list[str]
    """Names of the K classes."""
    validation: Any
    """Metrics of validation runs: ``compute`` gives every value under the name it is logged by, ``reset`` forgets."""
    testing: Any
    """The same of test runs."""

    _first_checked = False

    @abstractmethod
    def check_first(self, batch: dict[str, Any]) -> None:
        """Refuse the first batch where its entries are not what the module takes."""

    @abstractmethod
    def checked(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits of an image, refused where they have another shape than those of K classes."""

    def check_once(self, batch: dict[str, Any]) -> None:
        """Check the first batch that is seen."""
        if not self._first_checked:
            self.check_first(batch)
            self._first_checked = True

    def evaluate(self, metrics: Any, batch: dict[str, Any]) -> Tensor:
        """Add a batch to :attr:`validation` or :attr:`testing`; returns the logits."""
        self.check_once(batch)
        logits = self.checked(self(batch["image"]), batch["image"])
        metrics.update(logits, batch)
        return logits

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Classes and probabilities of the images ``[B, K, ...]``, or of their pixels, with their ids."""
        probabilities = self(batch["image"]).float().softmax(1)
        return {"id": batch["id"], "prediction": probabilities.argmax(1), "probability": probabilities}

    def keep_plain_hyperparameters(self) -> None:
        """Drop objects: they are rebuilt from the configuration, and checkpoints must load with weights_only=True."""
        for key in [key for key, value in self.hparams.items() if isinstance(value, nn.Module) or callable(value)]:
            del self.hparams[key]

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
