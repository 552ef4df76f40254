"""Nothing that was computed on the forget set may come back through a side door (theory §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from .refusals import check_communication


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
            that it copied, come from the forget set.
    """
    trainer.strategy.setup_optimizers(trainer)
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
    """Refuse optimisers that have taken steps before the run.

    Raises:
        MisconfigurationException: naming one.
    """
    for optimizer in trainer.optimizers:
        if any(_steps(state) > 0 for state in optimizer.state.values()):
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
    for place, hidden in _unregistered(module):
        raise MisconfigurationException(
            f"{place} holds a {type(hidden).__name__} that the module does not know, such as a teacher: it may have "
            f"learnt the forget set, and {operator} cannot reach it; make it an attribute of its own (and give an "
            "anchor that holds its weights, if it has to keep them), or take it out"
        )
    for name, layer in module.named_modules():
        if type(layer).get_extra_state is not nn.Module.get_extra_state:
            raise MisconfigurationException(
                f"{name or type(layer).__name__} keeps an extra state, which {operator} can neither reset nor tell "
                "from a trace of the forget set; keep it in a buffer, or leave the layer out"
            )


def _used_before(optimizer: Optimizer) -> MisconfigurationException:
    return MisconfigurationException(
        f"configure_optimizers gave a {type(optimizer).__name__} that was used before; what it remembers may come from "
        "the forget set; build it anew each time"
    )


_KNOWN = ("_modules", "_parameters", "_buffers", "_hparams", "_hparams_initial")
"""Attributes of modules that are looked at otherwise, or hold copies from before any training."""


def _unregistered(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Networks with parameters in plain attributes, and where they are."""
    own = {id(parameter) for parameter in module.parameters()}
    for name, layer in module.named_modules():
        for key, value in vars(layer).items():
            for inner in () if key in _KNOWN else _networks_in(value):
                if any(id(parameter) not in own for parameter in inner.parameters()):
                    yield f"{name}.{key}" if name else key, inner


def _networks_in(value: Any, depth: int = 3) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, (dict, list, tuple, set)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _networks_in(part, depth - 1)


def _steps(state: Any) -> float:
    step = state.get("step", 0) if isinstance(state, Mapping) else 0
    return float(step) if isinstance(step, (int, float, Tensor)) else 0.0


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
                tensor.copy_(before[name])
    return [name for name, times in left.items() if times == 2]


def _has_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
