"""Classification of whole images: what a model learns from image labels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from monai.networks.nets import DenseNet
from torch import Tensor, nn

from ..batch import check_batch
from ..files import digest_of
from ..object_settings import module_settings
from ..objectives import ERM, ClassificationObjective
from .evaluated import EvaluatedModule
from .image_evaluation import ImageEvaluation
from .optimisation import schedule_settings, with_schedule
from .training_set import read_training_set


class ImageClassifier(EvaluatedModule):
    """Train and evaluate an image classifier on the batches of :mod:`erode.batch`, by any objective.

    It reads ``image``, ``label``, ``flag``, ``id`` and ``counted``, and no mask: the zero point of spatial specificity,
    beside which segmentation is judged. Classes are those of the masks, so 0 = no pathology.

    Args:
        network: maps ``[B, C, *spatial]`` to logits ``[B, K]``; None = a MONAI ``DenseNet`` of 29 k parameters with
            group normalisation. (The ``norm`` of MONAI's ``ResNet`` does not reach its blocks, which keep running
            statistics.)
        num_classes: K, "no pathology" included.
        spatial_dims: 2 or 3; for the default network.
        in_channels: C; for the default network.
        class_names: names of the K classes, "no pathology" first.
        positive_class: class whose presence AUROC ranks; None = the last.
        objective: what becomes of the losses of single images; None = :class:`~erode.objectives.ERM`.
        optimizer: builds the optimiser from parameters.
        lr_scheduler: as for :class:`~erode.lightning_modules.SegmentationModule`; a cosine spans one stage of the
            objective.

    Raises:
        ValueError: for arguments that contradict each other, and for batches that break the contract.
        MisconfigurationException: if the run ends before the objective's first stage.

    Example:
        >>> ImageClassifier(num_classes=3)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3])
    """

    validation: ImageEvaluation
    testing: ImageEvaluation

    def __init__(
        self,
        network: nn.Module | None = None,
        num_classes: int = 2,
        spatial_dims: Literal[2, 3] = 2,
        in_channels: int = 3,
        class_names: Sequence[str] | None = None,
        positive_class: int | None = None,
        objective: ClassificationObjective | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        lr_scheduler: LRSchedulerCallable | Literal["cosine"] | None = "cosine",
    ) -> None:
        super().__init__()
        names = list(class_names or ["no pathology", *(f"class {k}" for k in range(1, num_classes))])
        if num_classes < 2 or len(names) != num_classes:
            raise ValueError(
                f"num_classes counts 'no pathology', so it is at least 2, with as many class_names; got {num_classes} "
                f"and {names}"
            )
        positive = num_classes - 1 if positive_class is None else positive_class
        if not 0 < positive < num_classes:
            raise ValueError(f"positive_class must be one of 1..{num_classes - 1}, got {positive_class}")
        self.save_hyperparameters(logger=False)
        self.keep_plain_hyperparameters()
        self.network = default_classifier(num_classes, spatial_dims, in_channels) if network is None else network
        self.num_classes = num_classes
        self.class_names = names
        self.objective = objective or ERM()
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self.validation = ImageEvaluation(num_classes, positive)
        self.testing = ImageEvaluation(num_classes, positive)
        self._initial: dict[str, Tensor] | None = None
        self._progress: dict[str, Any] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``[B, K]`` of images ``[B, C, *spatial]``."""
        return self.network(image)  # type: ignore[no-any-return]

    @property
    def keeps_start(self) -> bool:
        """Whether the weights that training starts from come back later; asked by operators that do not start clean."""
        return self.objective.stage_end is not None

    @property
    def keeps_losses(self) -> bool:
        """Whether losses of earlier weights steer later steps; asked by the same."""
        return self.objective.learns

    def setup(self, stage: str) -> None:
        """A run begins with the first stage; a checkpoint that it goes on from is read later."""
        super().setup(stage)
        if stage == "fit":
            self.objective.restart()
            self._initial = self._progress = None

    def on_train_start(self) -> None:
        """Show the objective the training set, and keep the weights that a second stage starts from."""
        if self.objective.stage_end is not None and self.objective.stage_end >= self._planned_steps():
            raise MisconfigurationException(
                f"the first stage of {type(self.objective).__name__} takes {self.objective.stage_end} steps and the "
                f"run {self._planned_steps()}: there is no second stage; raise max_steps or lower first_steps"
            )
        if self.objective.asks_for_groups:
            self.objective.begin(read_training_set(self.trainer, self.num_classes))
        if self._progress is not None:
            self.objective.resume(self._progress)
            self._progress = None
        if self.objective.stage_end is not None and self._initial is None:
            self._initial = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The objective of a batch."""
        self.check_once(batch)
        loss: Tensor = self.objective(self.checked(self(batch["image"]), batch["image"]), batch)
        self.log("train/loss", loss, batch_size=len(batch["image"]))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Start the next stage where one ends: initial weights, new optimiser, and what the first got wrong."""
        if self.objective.stage_end is None or self.trainer.global_step < self.objective.stage_end:
            return
        assert self._initial is not None
        self.objective.next_stage(read_training_set(self.trainer, self.num_classes, self._classify))
        self.network.load_state_dict(self._initial)
        self._initial = None
        self.trainer.strategy.setup_optimizers(self.trainer)

    def configure_optimizers(self) -> Any:
        """The optimiser and, if asked for, its scheduler over the steps of this stage."""
        end = self.objective.stage_end or self._planned_steps()
        steps = int(end) - self.trainer.global_step if self._make_scheduler == "cosine" else 0
        return with_schedule(self._make_optimizer(self.network.parameters()), self._make_scheduler, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the objective's progress and, during a first stage, the initial weights."""
        checkpoint["objective"] = {"progress": self.objective.progress(), "initial": self._initial}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on in the stage that was reached; plain weights have none."""
        if "objective" in checkpoint:
            self._progress, self._initial = (checkpoint["objective"][key] for key in ("progress", "initial"))

    def describe(self) -> dict[str, Any]:
        """What determines its training and its numbers, as plain values, for records and digests."""
        positive = self.validation.positive_class
        return {
            "network": type(self.network).__name__,
            "parameters": sum(p.numel() for p in self.parameters() if p.requires_grad),
            "layers": digest_of([str(self.network), module_settings(self.network)]),
            "objective": module_settings(self.objective),
            "optimizer": " ".join(str(self._make_optimizer(self.network.parameters())).split()),
            "lr_scheduler": schedule_settings(self._make_scheduler, self._make_optimizer, self.network.parameters()),
            **({} if positive == self.num_classes - 1 else {"positive_class": positive}),
        }

    def _planned_steps(self) -> float:
        return self.trainer.estimated_stepping_batches  # infinite for a run without an end

    def _classify(self, image: Tensor) -> Tensor:
        mode = self.network.training
        self.network.eval()
        with torch.no_grad():
            classes: Tensor = self(image).argmax(1)
        self.network.train(mode)
        return classes

    def check_first(self, batch: dict[str, Any]) -> None:
        """Refuse entries that are not those of :mod:`erode.batch`, and labels beyond the classes."""
        check_batch(batch, self.num_classes)

    def checked(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits ``[B, K]``, refused where they have another shape."""
        if tuple(logits.shape) != (len(image), self.num_classes):
            raise ValueError(
                f"{type(self.network).__name__} gives {list(logits.shape)} for {len(image)} images where num_classes = "
                f"{self.num_classes} needs {[len(image), self.num_classes]}; make it return one logit per class"
            )
        return logits


def default_classifier(num_classes: int, spatial_dims: int = 2, in_channels: int = 3) -> nn.Module:
    """A MONAI ``DenseNet`` of four blocks and about 29 k parameters (2-D); sides of 32 pixels and more."""
    return DenseNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=num_classes,
        init_features=16,
        growth_rate=8,
        block_config=(2, 2, 2, 2),
        norm=("group", {"num_groups": 4}),
    )
