"""Gradient reversal: a head learns to see artefacts in the features, and the features learn to hide them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..batch import UNKNOWN_FLAG
from ..debiasing import reverse_gradient
from .bases.operator import operators_of
from .batches.bottleneck import find_bottleneck
from .batches.entries import Key, entry

HEAD = "artefact_head"
"""Name of the head in the module while a run lasts."""


class GradientReversal(Callback):
    """Train any module against a head that predicts artefact flags from its bottleneck features.

    The head (spatial mean, hidden layer, one logit per artefact) learns by binary cross-entropy; its gradient reaches
    the features with the opposite sign, times ``strength · (2 / (1 + exp(-10 p)) - 1)`` at progress p of the run.
    Unknown flags teach the head nothing. A debiasing baseline: it promises nothing, and flags are its price.

    The head lives in the module as ``artefact_head`` while a Trainer runs with this callback, and its parameters join
    the first group of the module's own optimiser. It is gone after the run, so weights saved then fit the plain module;
    a checkpoint of the run holds it, and is resumed or tested with this callback.

    Args:
        artefacts: names of the flags, as the batch has them.
        layer: name of the layer whose output the head reads, e.g. ``network.model.1``; None = the last to end among
            those of the smallest spatial size, the bottleneck.
        strength: λ that the schedule tends to.
        hidden: units of the hidden layer.
        flags_key: where a batch keeps flags: a mapping from name to ``[B]``, or a tensor ``[B]`` or ``[B, M]`` in the
            order of ``artefacts``; 1 = shown, 0 = not, ``UNKNOWN_FLAG``.
        image_shape: ``[C, *spatial]`` of an image that the network can take, to find the layer with; None = as many
            channels as its first convolution wants, and 64 pixels a side.

    Logs ``train/artefact_loss``.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: before the first step, beside an unlearning operator, with manual optimisation, or
            without such a layer; at the first batch, without flags.

    Source: Ganin & Lempitsky 2015 (reversal and schedule). Bissoto et al. 2020 use it with one head per artefact, after
    Kim et al. 2019 (Learning Not to Learn), whose entropy term is left out here.

    Example:
        >>> GradientReversal(["ruler", "ink"]).strength_at(0.0), round(GradientReversal(["ink"]).strength_at(1.0), 3)
        (0.0, 1.0)
    """

    def __init__(
        self,
        artefacts: Sequence[str],
        layer: str | None = None,
        strength: float = 1.0,
        hidden: int = 64,
        flags_key: Key = "flags",
        image_shape: Sequence[int] | None = None,
    ) -> None:
        if not artefacts:
            raise ValueError("name at least one artefact to hide")
        if not strength >= 0 or hidden < 1:
            raise ValueError(f"need strength >= 0 and at least 1 hidden unit, got {strength} and {hidden}")
        self.artefacts = list(artefacts)
        self.layer = layer
        self.strength = strength
        self.hidden = hidden
        self.flags_key = flags_key
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self._features: Tensor | None = None
        self._hook: RemovableHandle | None = None
        self._own_step: Callable[..., Any] | None = None

    def strength_at(self, progress: float) -> float:
        """λ at a progress of 0 to 1 (Ganin & Lempitsky 2015, §4)."""
        return self.strength * (2 / (1 + math.exp(-10 * progress)) - 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the head before strategies register parameters and checkpoints are read."""
        if stage == "fit" and operators_of(trainer):
            raise MisconfigurationException(
                "GradientReversal is a way of training, not of unlearning: leave it out of unlearning runs"
            )
        if stage == "fit" and not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"{type(pl_module).__name__} optimises manually, so a loss added to its training step is not seen; set "
                "automatic_optimization = True"
            )
        if hasattr(pl_module, HEAD):
            return  # a run within a run: the fit that validates has added it
        found = find_bottleneck(pl_module, self.layer, self.image_shape)
        head = nn.Sequential(
            nn.Linear(found.channels, self.hidden), nn.ReLU(), nn.Linear(self.hidden, len(self.artefacts))
        )
        setattr(pl_module, HEAD, head.to(pl_module.device))
        self._hook = found.layer.register_forward_hook(self._keep)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the head's loss to the module's training step."""
        self._own_step = pl_module.__dict__.get("training_step")
        step = pl_module.training_step

        def training_step(*arguments: Any, **named: Any) -> Any:
            self._features = None
            outcome = step(*arguments, **named)
            if outcome is None:
                return None
            batch = arguments[0] if arguments else named["batch"]
            hidden = self._artefact_loss(trainer, pl_module, batch)
            return {**outcome, "loss": outcome["loss"] + hidden} if isinstance(outcome, Mapping) else outcome + hidden

        pl_module.training_step = training_step  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let the optimiser train the head, also one that the module made anew."""
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        known = {id(parameter) for group in groups for parameter in group["params"]}
        missing = [p for p in getattr(pl_module, HEAD).parameters() if id(p) not in known]
        # Into a group that exists: a scheduler counts them.
        groups[0]["params"].extend(missing)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was found."""
        self._clear(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was found."""
        self._clear(pl_module)

    def _clear(self, module: LightningModule) -> None:
        if self._hook is None:
            return
        self._hook.remove()
        self._hook = self._features = None
        module.__dict__.pop("training_step", None)
        if self._own_step is not None:
            module.training_step = self._own_step  # type: ignore[method-assign]
        delattr(module, HEAD)

    def _keep(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._features = output

    def _artefact_loss(self, trainer: Trainer, module: LightningModule, batch: Any) -> Tensor:
        if self._features is None:
            raise MisconfigurationException("the layer whose features are to hide artefacts was not run; set layer")
        progress = trainer.global_step / max(1.0, float(trainer.estimated_stepping_batches))
        features = self._features.flatten(2).mean(2)
        logits = getattr(module, HEAD)(reverse_gradient(features, self.strength_at(min(1.0, progress)))).float()
        flags = self._flags(batch).to(logits.device)
        known = flags != UNKNOWN_FLAG
        each = F.binary_cross_entropy_with_logits(logits, flags.clamp(min=0).to(logits.dtype), reduction="none")
        loss = torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)
        module.log("train/artefact_loss", loss.detach(), batch_size=len(flags))
        return loss

    def _flags(self, batch: Any) -> Tensor:
        """``[B, M]``, integer."""
        flags = entry(batch, self.flags_key, "flags_key")
        if isinstance(flags, Mapping):
            absent = [name for name in self.artefacts if name not in flags]
            if absent:
                raise MisconfigurationException(
                    f"the batch has no flag {absent[0]!r}, only {', '.join(flags) or 'none'}; correct artefacts"
                )
            return torch.stack([flags[name] for name in self.artefacts], 1).long()
        flags = torch.as_tensor(flags).long()
        flags = flags.unsqueeze(1) if flags.ndim == 1 else flags
        if flags.shape[1:] != (len(self.artefacts),):
            raise MisconfigurationException(
                f"the batch has flags {list(flags.shape)} for {len(self.artefacts)} artefacts; name as many"
            )
        return flags
