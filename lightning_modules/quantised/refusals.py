"""Set-ups in which quantised training would depend on a sample in other ways than its budget says (theory §5)."""

from __future__ import annotations

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder
from monai.data.utils import list_data_collate
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    default_collate,
)

from ...lightning_state import callbacks_of
from ...objectives import ClassificationObjective

TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Of modules and DataModules; they are given whole batches."""

_PACKAGE = __name__.partition(".")[0]


def check_trainer(trainer: Trainer) -> None:
    """Refuse a number of steps, a learning rate or an arithmetic that depends on the data.

    Raises:
        MisconfigurationException: with the reason and the remedy.
    """
    if trainer.max_steps < 1 or trainer.max_epochs != -1:
        raise MisconfigurationException(
            "quantised training takes one step per epoch, and their number may not depend on the data: give the "
            "Trainer max_steps, and neither max_epochs nor another end"
        )
    if trainer.limit_train_batches != 1.0:
        raise MisconfigurationException("each step of quantised training takes all samples; drop limit_train_batches")
    if len(trainer.optimizers) != 1:
        raise MisconfigurationException(f"quantised training has one optimiser, got {len(trainer.optimizers)}")
    precision = str(trainer.precision)
    if precision not in ("32-true", "64-true", "bf16-mixed"):
        raise MisconfigurationException(f"quantised training is untested in precision {precision}; use 32-true")
    if any(isinstance(config.scheduler, ReduceLROnPlateau) for config in trainer.lr_scheduler_configs):
        raise MisconfigurationException("ReduceLROnPlateau follows the data; use a schedule of the step alone")
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping):
            raise MisconfigurationException("EarlyStopping ends the run by the data; give max_steps alone")
    if trainer.strategy.root_device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        raise MisconfigurationException("kernels of CUDA need not repeat themselves; give Trainer(deterministic=True)")


def check_tuners(trainer: Trainer) -> None:
    """Refuse callbacks that choose a setting by the data, before they do so.

    Raises:
        MisconfigurationException: naming the first.
    """
    for callback in callbacks_of(trainer):
        if isinstance(callback, (BatchSizeFinder, LearningRateFinder)):
            raise MisconfigurationException(
                f"{type(callback).__name__} chooses by the data; give the value itself, found on other data"
            )


def check_module(module: LightningModule) -> None:
    """Refuse layers and objectives in which samples meet, or that draw random numbers.

    Raises:
        MisconfigurationException: naming the first.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, ClassificationObjective) and _remembers(layer):
            raise MisconfigurationException(
                f"{name} is {type(layer).__name__}, by which the gradient of a sample depends on the others (their "
                "groups, their losses, or which of them were misclassified), so no budget counts what removing one "
                "does; take an objective that weighs each image by itself, such as ERM"
            )
        if isinstance(layer, _NormBase) and layer.track_running_stats:
            raise MisconfigurationException(
                f"{name} keeps running statistics, which depend on every sample; use instance, group or layer "
                "normalisation"
            )
        if isinstance(layer, (_DropoutNd, nn.RReLU)) and getattr(layer, "p", 1.0) > 0:
            raise MisconfigurationException(
                f"{name} draws random numbers in an order that the samples decide; set its rate to 0"
            )


def check_transfer(module: LightningModule, data: LightningDataModule | None) -> None:
    """Refuse hooks that may change whole batches before they are taken apart; those of this package mirror only.

    Raises:
        MisconfigurationException: naming the first.
    """
    for owner, own in ((module, LightningModule), (data, LightningDataModule)):
        for name in TRANSFER_HOOKS if owner is not None else ():
            hook = getattr(owner, name)
            function = getattr(hook, "__func__", hook)
            if function is not getattr(own, name) and not function.__module__.startswith(f"{_PACKAGE}."):
                raise MisconfigurationException(
                    f"{type(owner).__name__} has {name} of its own, which is given whole batches, so a sample may "
                    "depend on the others there (a mean over the batch does); do it in the data set, for each sample "
                    "by itself"
                )


def check_data(trainer: Trainer) -> int:
    """Refuse loaders that do not serve each sample once, and by itself.

    Returns:
        How many samples there are.

    Raises:
        MisconfigurationException: with the reason and the remedy.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(f"quantised training needs one DataLoader, got {type(loader).__name__}")
    sampler = loader.sampler
    once = type(sampler) is SequentialSampler
    once |= type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler)
    once |= isinstance(sampler, DistributedSampler)
    if not once or loader.drop_last:
        raise MisconfigurationException(
            f"{type(sampler).__name__} with drop_last={loader.drop_last} need not serve each sample once a step; use "
            "a plain DataLoader, shuffled or not, with drop_last=False"
        )
    if type(loader.batch_sampler) is not BatchSampler:
        raise MisconfigurationException(
            f"{type(loader.batch_sampler).__name__} may serve a sample twice in a step; give the DataLoader batch_size"
        )
    if loader.collate_fn not in (default_collate, list_data_collate) and loader.batch_size != 1:
        raise MisconfigurationException(
            "the DataLoader has a collate_fn of its own, by which a sample may depend on its batch (padding does); use "
            "the default one, or batch_size=1"
        )
    if _serves_batches(loader.dataset) and loader.batch_size != 1:
        raise MisconfigurationException(
            f"{type(loader.dataset).__name__} serves whole batches (__getitems__), in which a sample may depend on the "
            "others; leave that out, or use batch_size=1"
        )
    size = len(loader.dataset)  # type: ignore[arg-type]  # sized, or it would have no such sampler
    if len(sampler) * trainer.world_size != size:  # type: ignore[arg-type]
        raise MisconfigurationException(
            f"{size} samples do not divide by {trainer.world_size} processes, and the sampler serves some twice or "
            "never; leave some out by hand, or use another number of processes: the weights are the same"
        )
    return size


def _serves_batches(dataset: object) -> bool:
    if type(dataset) is Subset:  # those of torch pass batches on
        return _serves_batches(dataset.dataset)
    if type(dataset) is StackDataset:
        parts = dataset.datasets
        return any(map(_serves_batches, parts.values() if isinstance(parts, dict) else parts))
    return hasattr(dataset, "__getitems__")


def _remembers(objective: ClassificationObjective) -> bool:
    """Whether it looks at the training set, or learns on the way, by which samples meet."""
    return objective.learns or objective.asks_for_groups or objective.stage_end is not None
