"""Set-ups under which a noisy step would not be what its certificate says (theory §4, §9)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from ...lightning_state import callbacks_of

PRECISIONS = {
    "16-mixed": "skips steps silently when a gradient overflows",
    "bf16-true": "rounds the noise away",
    "16-true": "rounds the noise away",
}
"""What is wrong with precisions that people are likely to use."""

CHANGE_WEIGHTS: dict[type[Callback], str] = {
    WeightAveraging: "averages in the original weights",
    StochasticWeightAveraging: "replaces weights and optimiser",
    ModelPruning: "changes weights between steps",
    BaseFinetuning: "changes the parameters of the optimiser",
}
"""Callbacks of Lightning that cannot run beside certified steps."""

KEEP_WEIGHTS: dict[type[Callback], str] = {
    WeightAveraging: "averages in the weights from before",
    StochasticWeightAveraging: "copies the weights from before, and ends with the copy",
    ModelPruning: "keeps a copy of the weights from before, and puts what is not pruned back to it",
}
"""Callbacks of Lightning that bring weights from before into those that a run releases."""

_ULPS = 16
"""σ in units in the last place: the smallest at which rounding is small against the noise."""


def check_setup(trainer: Trainer, module: LightningModule, operator: str, steps: int) -> None:
    """Refuse set-ups in which the certified steps would not take place as accounted.

    Args:
        trainer: about to fit.
        module: to be unlearned.
        operator: name of the callback, for messages.
        steps: optimiser steps that the operator needs.

    Raises:
        MisconfigurationException: with the reason and the remedy.
    """
    if (why := manual(module, operator)) is not None:
        raise MisconfigurationException(why)
    check_precision(str(trainer.precision), operator)
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy):  # DeepSpeed's is a subclass of DDP's
        raise MisconfigurationException(
            f"{type(trainer.strategy).__name__} is not supported by {operator}: sharded weights would need noise and "
            "norms of their own; use one device or strategy='ddp'"
        )
    check_communication(trainer, operator)
    check_weights_stay(callbacks_of(trainer), operator)
    check_steps(trainer.estimated_stepping_batches, operator, steps)


def check_precision(precision: str, operator: str) -> None:
    """Refuse precisions in which a certified step may be skipped, or its noise lost; ``erode plan`` asks too.

    Raises:
        MisconfigurationException: with the reason and the remedy.
    """
    if precision not in ("32-true", "64-true", "bf16-mixed"):
        why = PRECISIONS.get(precision, "is untested here")
        raise MisconfigurationException(
            f"precision {precision} {why}, which {operator} cannot certify; use 32-true or bf16-mixed"
        )


def check_weights_stay(callbacks: Sequence[Callback], operator: str) -> None:
    """Refuse callbacks that change weights beside the certified steps; ``erode plan`` asks too.

    Raises:
        MisconfigurationException: naming the callback.
    """
    for callback in callbacks:
        for kind, why in CHANGE_WEIGHTS.items():
            if isinstance(callback, kind):
                raise MisconfigurationException(
                    f"{type(callback).__name__} {why}, which {operator} cannot certify; "
                    "use it in a later fit, on the released weights"
                )


def check_steps(taken: float, operator: str, steps: int) -> None:
    """Refuse a run that ends before the last certified step; ``erode plan`` asks too.

    Raises:
        MisconfigurationException: with both numbers.
    """
    if taken < steps:
        raise MisconfigurationException(
            f"{operator} needs {steps} optimiser steps, this run takes {taken}; "
            "raise max_steps or max_epochs, or lower the operator's steps"
        )


def check_communication(trainer: Trainer, operator: str) -> None:
    """Refuse hooks between the gradients of processes: some keep what they left out, and add it to a later step.

    Raises:
        MisconfigurationException: naming the hook or its state.
    """
    strategy = trainer.strategy
    given = [getattr(strategy, f"_ddp_comm_{name}", None) for name in ("hook", "state")]
    given += [hook for hook, _ in getattr(strategy.model, "_comm_hooks", ())]  # registered on the wrapped module
    for one in given:
        if one is not None:
            name = getattr(one, "__name__", type(one).__name__)
            raise MisconfigurationException(
                f"{name} stands between the gradients of the processes and may add those of earlier batches "
                f"(PowerSGD's error feedback does), which {operator} cannot answer for; leave out ddp_comm_hook and "
                "ddp_comm_state of DDPStrategy: the plain mean over processes remembers nothing"
            )


def manual(module: Module, operator: str) -> str | None:
    """Why a module that optimises manually cannot take certified steps; None = it does not."""
    if getattr(module, "automatic_optimization", True):
        return None
    return (
        f"{type(module).__name__} optimises manually, so {operator} cannot own the step; "
        "set automatic_optimization = True for the unlearning run"
    )


def remembers(module: Module, operator: str) -> str | None:
    """Why a module that remembers weights without noise, or what they made of images, cannot take certified steps.

    Args:
        module: says so of itself: ``keeps_start`` where the weights that training starts from come back later,
            ``keeps_losses`` where losses of earlier steps steer later ones.
        operator: name of the callback, for the message.

    Returns:
        Reason and remedy; None = it does not.
    """
    if getattr(module, "keeps_start", False):
        what, remedy = "keeps the weights that training starts from and comes back to them", "of one stage"
    elif getattr(module, "keeps_losses", False):
        what, remedy = "weighs images by the losses of earlier steps and goes on so", "that remembers none, as ERM"
    else:
        return None
    return (
        f"{type(module).__name__} {what} after the certified steps of {operator}, whose noise was not there yet; use "
        f"OutputPerturbation, whose noise comes first, or an objective {remedy}"
    )


def check_callbacks(callbacks: Sequence[Callback], operator: str) -> None:
    """Refuse callbacks that train for a trial and then load the weights from before, whatever the operator did.

    Raises:
        MisconfigurationException: naming the callback.
    """
    for callback in callbacks:
        if isinstance(callback, (BatchSizeFinder, LearningRateFinder)):
            raise MisconfigurationException(
                f"{type(callback).__name__} takes trial steps, and then goes back to the weights from before "
                f"{operator}; find the value in a run without an operator"
            )


def refuse_memories(callbacks: Sequence[Callback], before: Callback | None = None) -> None:
    """Refuse callbacks that keep the weights from before, and would bring them into the released ones.

    Args:
        callbacks: of the run.
        before: a callback that replaces the weights in its ``setup``, so that those behind it keep what it left.

    Raises:
        MisconfigurationException: naming the callback.
    """
    remedy = "use it in a later fit instead"
    if before is not None:
        callbacks, remedy = callbacks[: callbacks.index(before)], f"list it behind {type(before).__name__}"
    for callback in callbacks:
        for kind, why in KEEP_WEIGHTS.items():
            if isinstance(callback, kind):
                raise MisconfigurationException(f"{type(callback).__name__} {why}; {remedy}")


def check_averaging(callbacks: Sequence[Callback], operator: Callback) -> None:
    """Refuse averaging, where it is harmless, behind the operator: it would release what is not averaged yet.

    Raises:
        MisconfigurationException: naming the callback.
    """
    name = type(operator).__name__
    for callback in callbacks[callbacks.index(operator) :]:
        if isinstance(callback, WeightAveraging):
            raise MisconfigurationException(
                f"{type(callback).__name__} comes after {name}, which would release weights that are not averaged yet; "
                f"list it before {name}"
            )


def check_loop(module: LightningModule, operator: str) -> None:
    """Refuse a training step that fetches its batches itself, or that an earlier operator left behind.

    Raises:
        MisconfigurationException: naming the module.
    """
    if (earlier := getattr(module.training_step, "of_operator", None)) is not None:
        raise MisconfigurationException(
            f"{type(module).__name__} still trains by the loss of {earlier}, whose run did not end; make a new module "
            "from its weights"
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise MisconfigurationException(
            f"{type(module).__name__}.training_step fetches its own batches (dataloader_iter), so {operator} cannot "
            "see whether they hold forget atoms; let it take a batch"
        )


def check_shapes(module: Module) -> None:
    """Refuse lazy layers, which hold no weights before their first batch.

    Raises:
        MisconfigurationException: naming the first parameter.
    """
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise MisconfigurationException(f"{name} has no shape yet; pass one batch through the module before fit")


def check_takes_steps(trainer: Trainer, operator: str) -> None:
    """Refuse a run of which Lightning would skip all training, and with it the release.

    Raises:
        MisconfigurationException: as :func:`no_step`.
    """
    if 0 in (trainer.max_steps, trainer.max_epochs, trainer.limit_train_batches):
        raise no_step(operator)


def no_step(operator: str) -> MisconfigurationException:
    """Why a run without a training step releases nothing."""
    return MisconfigurationException(
        f"no training step was taken, and {operator} releases at the end of training; raise max_steps, max_epochs or "
        "the data's limits (limit_train_batches, an empty loader). A run that is resumed needs steps left to take; "
        "where no training is wanted, max_steps=1 with a learning rate of 0 leaves the weights as they were prepared"
    )


def check_rounding(weights: Sequence[Tensor], sigma: float) -> None:
    """Refuse noise that drowns in the rounding of the largest weight.

    Args:
        weights: at the start of the noisy phase.
        sigma: σ of one step, per coordinate.

    Raises:
        MisconfigurationException: if σ is below 16 units in the last place.

    Example:
        >>> check_rounding([torch.ones(3)], sigma=1e-3)
    """
    for tensor in weights:
        if not tensor.numel():
            continue
        largest = tensor.detach().abs().max()
        ulp = float(torch.nextafter(largest, torch.full_like(largest, torch.inf)) - largest)
        if sigma < _ULPS * ulp:
            raise MisconfigurationException(
                f"the noise, sigma = {sigma:.2g}, is lost in the rounding of a weight of {float(largest):.2g}, which "
                f"has steps of {ulp:.2g}; raise radius (the noise grows with it), lower epsilon, or compute in 64-true"
            )
