"""Nothing that was computed on the forget set may come back through a side door (theory §4)."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from .refusals import check_communication
from .shared_memory import overwrite
from .writes import versions


class Before(NamedTuple):
    """Optimisers and schedulers that a run began with."""

    optimizers: Sequence[Optimizer]
    schedulers: Sequence[object]

    @classmethod
    def of(cls, trainer: Trainer) -> Before:
        """Those that are in place now."""
        return cls(list(trainer.optimizers), [config.scheduler for config in trainer.lr_scheduler_configs])


def build_optimizers(trainer: Trainer, before: Before) -> None:
    """Ask ``configure_optimizers`` anew: some optimisers copy the weights when they are made.

    Args:
        trainer: of the run.
        before: what the run began with.

    Raises:
        MisconfigurationException: if it gives one that it gave before, or that has taken steps: its moments, or weights
            that it copied, come from the forget set; or if it writes weights.
    """
    weights = list(trainer.lightning_module.parameters())
    prepared = versions(weights)
    trainer.strategy.setup_optimizers(trainer)
    if versions(weights) != prepared:
        raise MisconfigurationException(
            "configure_optimizers writes the weights, such as those of a file, after they were reset or got their "
            "noise; load trained weights before fit"
        )
    for optimizer in trainer.optimizers:
        if any(optimizer is other for other in before.optimizers):
            raise _used_before(optimizer)
    check_unused(trainer)
    for config in trainer.lr_scheduler_configs:
        again = any(config.scheduler is other for other in before.schedulers)
        if again and getattr(config.scheduler, "last_epoch", 0) > 0:
            raise MisconfigurationException(
                f"configure_optimizers gave a {type(config.scheduler).__name__} that was used before; build it anew "
                "each time"
            )


def check_unused(trainer: Trainer) -> None:
    """Refuse optimisers that remember something before the run.

    State that counts no steps may be zeros, or copies of the weights as they are, as some make them at once.

    Raises:
        MisconfigurationException: naming one.
    """
    for optimizer in trainer.optimizers:
        if any(_remembers(state, weight) for weight, state in optimizer.state.items()):
            raise _used_before(optimizer)


def check_known(trainer: Trainer, module: LightningModule, operator: str) -> None:
    """Refuse values that neither re-initialisation nor noise nor the released file would reach.

    Raises:
        MisconfigurationException: for hooks between the gradients of processes, parameters outside of ``state_dict``,
            what else it adds, parameters that an optimiser has and the module has not, networks in plain lists or
            dicts, and layers with extra state.
    """
    check_communication(trainer, operator)
    saved = module.state_dict()
    named = dict(module.named_parameters())
    known = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    if unknown := [name for name, value in saved.items() if isinstance(value, Tensor) and name not in known]:
        raise MisconfigurationException(
            f"state_dict() adds {unknown[0]}, which is no parameter and no buffer, so {operator} can neither reset it "
            "nor tell it from a trace of the forget set; register it as a buffer, or leave it out"
        )
    check_saved_as_held(module)
    if unsaved := [name for name in named if name not in saved]:
        raise MisconfigurationException(
            f"{unsaved[0]} is a parameter that state_dict() leaves out, so {operator} can neither look at it nor "
            "release it; let state_dict() hold all parameters"
        )
    own = {id(parameter) for parameter in named.values()}
    for optimizer in trainer.optimizers:
        if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
            raise MisconfigurationException(
                f"a {type(optimizer).__name__} trains a parameter that the module does not know, so {operator} cannot "
                "reach it; register its layer (as an attribute, or in a ModuleList)"
            )
    check_registered(module, operator)
    for name, layer in module.named_modules():
        if type(layer).get_extra_state is not nn.Module.get_extra_state:
            raise MisconfigurationException(
                f"{name or type(layer).__name__} keeps an extra state, which {operator} can neither reset nor tell "
                "from a trace of the forget set; keep it in a buffer, or leave the layer out"
            )


def check_registered(module: nn.Module, operator: str) -> None:
    """Refuse networks that the module does not know, in plain attributes, at any time before or in a noisy phase.

    Raises:
        MisconfigurationException: naming the first.
    """
    for place, hidden in _unregistered(module):
        raise MisconfigurationException(
            f"{place} holds a {type(hidden).__name__} that the module does not know, such as a teacher: it may have "
            f"learnt the forget set, and {operator} cannot reach it; make it an attribute of its own (and give an "
            "anchor that holds its weights, if it has to keep them), or take it out"
        )


def check_saved_as_held(module: nn.Module) -> None:
    """Refuse a ``state_dict`` with other values than the module computes with, such as averages of its own.

    Raises:
        MisconfigurationException: naming the first.
    """
    held = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    for name, value in module.state_dict().items():
        own = held.get(name)
        if (
            isinstance(value, Tensor)
            and own is not None
            and (value.data_ptr(), value.shape) != (own.data_ptr(), own.shape)
        ):
            raise MisconfigurationException(
                f"state_dict() gives another tensor as {name} than the module holds, so what is looked at and released "
                "is not what was reset, noised and trained; keep averages in parameters or buffers of their own"
            )


def _used_before(optimizer: Optimizer) -> MisconfigurationException:
    return MisconfigurationException(
        f"configure_optimizers gave a {type(optimizer).__name__} that was used before; what it remembers may come from "
        "the forget set; build it anew each time"
    )


KNOWN = ("_modules", "_parameters", "_buffers", "_hparams_initial", "_trainer", "_fabric")
"""Attributes of modules that are looked at otherwise, belong to the run, or are copied each time they are read."""


def _unregistered(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Networks with parameters in plain attributes, and where they are."""
    own = {id(parameter) for parameter in module.parameters()}
    for name, layer in module.named_modules():
        for key, value in vars(layer).items():
            for inner in () if key in KNOWN else _networks_in(value):
                if any(id(parameter) not in own for parameter in inner.parameters()):
                    yield f"{name}.{key}" if name else key, inner


def _networks_in(value: Any, depth: int = 3) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif depth:
        for part in parts_of(value):
            yield from _networks_in(part, depth - 1)


def parts_of(value: Any) -> Iterable[Any]:
    """What is inside of a container, a function that holds on to something, or an object of somebody's own."""
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return value
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, MethodType):
        return (value.__self__,)
    theirs = type(value).__module__.partition(".")[0] in {"builtins", "lightning", "torch", "torchmetrics"}
    return () if theirs else getattr(value, "__dict__", {}).values()


def _remembers(state: Any, weight: Tensor) -> bool:
    """Whether the state of a weight is of steps that were taken."""
    if isinstance(state, Mapping) and isinstance(step := state.get("step"), (int, float, Tensor)):
        return float(step) > 0
    values = list(state.values()) if isinstance(state, Mapping) else [state]
    return any(
        bool(value.any()) and not (value.shape == weight.shape and torch.equal(value, weight.to(value)))
        for value in values
        if isinstance(value, Tensor)
    )


def stuck(module: nn.Module, reset: Callable[[nn.Module], None]) -> list[str]:
    """Names of parameters and buffers that a reset leaves as they are, in any element.

    It is tried, not asked: all values are replaced by others, reset, looked at, and put back; integers twice, for a
    reset may set the very value that replaced them.

    Args:
        module: the network; as it was afterwards.
        reset: sets what it can of the module.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    left: dict[str, int] = dict.fromkeys(tensors, 0)
    with torch.no_grad(), torch.random.fork_rng({t.device.index for t in tensors.values() if t.is_cuda}):
        try:
            for value in (0, 1):
                for tensor in tensors.values():
                    tensor.fill_(torch.nan if _has_nan(tensor) else value)
                reset(module)
                for name, tensor in tensors.items():
                    same = tensor.isnan() if _has_nan(tensor) else tensor == value
                    left[name] += bool(same.any())
        finally:
            for name, tensor in tensors.items():
                overwrite(tensor, before[name])
    return [name for name, times in left.items() if times == 2]


def _has_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
