"""What a short first training gets wrong counts more in a second one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import ClassificationObjective, TrainingSet
from .erm import ERM


class JustTrainTwice(ClassificationObjective):
    """Just train twice (Liu et al. 2021, Algorithm 1): what a short first training gets wrong counts more in a second.

    No artefact flags are needed. The first stage is stopped early, after ``first_steps``; the training images that it
    misclassifies are the error set. The second starts from the initial weights, with losses of the error set
    multiplied by ``upweight`` and all losses divided by the mean factor over the data, which in expectation is their
    repeating of the error set λ times. The paper chooses both settings by worst-group accuracy on validation images.

    Args:
        first_steps: optimiser steps of the first stage; the run must be longer.
        upweight: λ ≥ 1, factor of the error set.
        first: objective of the first stage; None = `ERM`.
        second: objective of the second stage, given the multiplied losses; None = `ERM`.

    Raises:
        ValueError: for settings out of range, or stages that have stages themselves.

    Example:
        >>> from erode.objectives import TrainingSet
        >>> objective = JustTrainTwice(first_steps=100, upweight=5.0)
        >>> objective.stage_end
        100
        >>> wrong = TrainingSet("ab", torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0, 0]), num_classes=2)
        >>> objective.next_stage(wrong)
        >>> objective.error_set, objective.stage_end, objective.factors(["a", "b"]).tolist()
        (frozenset({'b'}), None, [0.3333333432674408, 1.6666666269302368])
    """

    def __init__(
        self,
        first_steps: int,
        upweight: float = 20.0,
        first: ClassificationObjective | None = None,
        second: ClassificationObjective | None = None,
    ) -> None:
        super().__init__()
        if first_steps < 1 or upweight < 1:
            raise ValueError(f"first_steps and upweight must be at least 1, got {first_steps} and {upweight}")
        self.first_steps, self.upweight = first_steps, upweight
        self.first, self.second = first or ERM(), second or ERM()
        if self.first.stage_end is not None or self.second.stage_end is not None:
            raise ValueError("the two stages of JustTrainTwice are objectives of one stage, such as ERM and GroupDRO")
        self.error_set: frozenset[str] | None = None
        self._mean_factor = 1.0

    @property
    def asks_for_groups(self) -> bool:
        """If one of its stages does."""
        return self.first.asks_for_groups or self.second.asks_for_groups

    @property
    def stage_end(self) -> int | None:
        """The first stage ends after ``first_steps``, the second with the run."""
        return self.first_steps if self.error_set is None else None

    def begin(self, data: TrainingSet) -> None:
        """Both stages look at the data."""
        for stage in (self.first, self.second):
            if stage.asks_for_groups:
                stage.begin(data)

    def next_stage(self, data: TrainingSet) -> None:
        """Take the misclassified images as error set."""
        assert data.predicted is not None
        wrong = (data.predicted != data.labels).tolist()
        self.error_set = frozenset(name for name, is_wrong in zip(data.ids, wrong, strict=True) if is_wrong)
        if not self.error_set:
            warnings.warn(
                f"after {self.first_steps} steps no training image is misclassified: the second stage is plain "
                "training; lower first_steps",
                stacklevel=2,
            )
        self._mean_factor = 1 + (self.upweight - 1) * len(self.error_set) / len(data.ids)

    def factors(self, ids: Sequence[str]) -> Tensor:
        """Factors ``[B]`` of the second stage's losses, of mean 1 over the training set."""
        errors = self.error_set or frozenset()
        return torch.tensor([self.upweight if name in errors else 1.0 for name in ids]) / self._mean_factor

    def reduce(self, losses: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """As the objective of the stage does it."""
        if self.error_set is None:
            loss: Tensor = self.first.reduce(losses, batch)
            return loss
        return self.second.reduce(losses * self.factors(batch["id"]).to(losses), batch)

    def restart(self) -> None:
        """Back to the first stage."""
        self.error_set, self._mean_factor = None, 1.0
        self.first.restart()
        self.second.restart()

    def progress(self) -> dict[str, Any]:
        """The error set, once there is one, and the progress of both stages."""
        errors = None if self.error_set is None else sorted(self.error_set)
        stages = {"first": self.first.progress(), "second": self.second.progress()}
        return {"error_set": errors, "mean_factor": self._mean_factor, **stages}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on in the stage that was reached."""
        self.error_set = None if state["error_set"] is None else frozenset(state["error_set"])
        self._mean_factor = state["mean_factor"]
        self.first.resume(state["first"])
        self.second.resume(state["second"])

    def extra_repr(self) -> str:
        """Settings, for records."""
        return f"first_steps={self.first_steps}, upweight={self.upweight}"
