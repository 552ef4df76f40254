"""Values of a module that neither a reset nor noise nor the released file reaches (theory §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from .objects import found_in, places
from .refusals import KEEP_WEIGHTS, check_communication

FEWEST = 8
"""Numbers of a tensor, at least, for it to tell where it comes from."""


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
    check_registered(trainer, module, operator)
    check_optimizers_known(trainer, module, operator)
    for name, layer in module.named_modules():
        if type(layer).get_extra_state is not nn.Module.get_extra_state:
            raise MisconfigurationException(
                f"{name or type(layer).__name__} keeps an extra state, which {operator} can neither reset nor tell "
                "from a trace of the forget set; keep it in a buffer, or leave the layer out"
            )


def check_registered(
    trainer: Trainer, module: nn.Module, operator: str, is_clean: Callable[[nn.Module], bool] = lambda _: False
) -> None:
    """Refuse networks that the module does not know, at any time before or in a noisy phase.

    They may stand in plain attributes of the module and its layers, of the DataModule, of callbacks, or in data sets.

    Args:
        trainer: of the run.
        module: that is unlearned.
        operator: name of the callback, for messages.
        is_clean: whether a network holds nothing but what the operator left.

    Raises:
        MisconfigurationException: naming the first.
    """
    for place, hidden in _unregistered(trainer, module):
        if is_clean(hidden):
            continue
        raise MisconfigurationException(
            f"{place} holds a {type(hidden).__name__} that the module does not know, such as a teacher: it may have "
            f"learnt the forget set, and {operator} cannot reach it; make it an attribute of the module (and give an "
            "anchor that holds its weights, if it has to keep them), or take it out"
        )
    for name, layer in module.named_modules():
        if _holds_constants(layer):
            raise MisconfigurationException(
                f"{name or 'the module'} is a frozen TorchScript module, whose weights are constants that {operator} "
                "can neither reset nor look at; keep it as a torch.nn.Module with parameters, or take it out"
            )


def check_optimizers_known(trainer: Trainer, module: nn.Module, operator: str) -> None:
    """Refuse optimisers that remember steps and that Lightning does not know, wherever networks are looked for.

    Raises:
        MisconfigurationException: naming the first.
    """
    known = {id(optimizer) for optimizer in trainer.optimizers}
    seen: dict[int, int] = {}
    for place, value in places(trainer, module):
        for optimizer in found_in(value, Optimizer, seen):
            if id(optimizer) not in known and optimizer.state:
                raise MisconfigurationException(
                    f"{place} holds a {type(optimizer).__name__} that has taken steps: what it remembers may come from "
                    f"the forget set, and {operator} cannot reach it; make it in configure_optimizers, anew each time"
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


def _unregistered(trainer: Trainer, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Networks with weights that are none of the module's, and where they are."""
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    seen: dict[int, int] = {}
    for place, value in places(trainer, module, known=tuple(KEEP_WEIGHTS)):  # those have rules of their own
        for inner in found_in(value, nn.Module, seen):
            if any(id(weight) not in own for weight in _weights_of(inner)) or any(
                map(_holds_constants, inner.modules())
            ):
                yield place, inner


def _weights_of(network: nn.Module, in_metric: bool = False) -> Iterator[object]:
    """What a network may have learnt: parameters, packed ones too, and buffers, but for few numbers and metrics'."""
    in_metric = in_metric or isinstance(network, Metric)
    yield from (parameter for parameter in network.parameters(recurse=False) if not parameter.is_meta)
    for buffer in () if in_metric else network.buffers(recurse=False):
        if not buffer.is_meta and (buffer.is_floating_point() or buffer.is_quantized) and buffer.numel() >= FEWEST:
            yield buffer
    if (packed := getattr(network, "_packed_params", None)) is not None:  # of quantised layers
        yield packed
    for layer in network.children():
        yield from _weights_of(layer, in_metric)


def _holds_constants(layer: nn.Module) -> bool:
    """Whether a TorchScript module keeps tensors in its code, as ``torch.jit.freeze`` does."""
    if not isinstance(layer, torch.jit.ScriptModule):
        return False
    if not hasattr(layer, "forward"):  # a list of layers
        return False
    graph = layer.inlined_graph  # its nodes live as long as it does
    constants = graph.findAllNodes("prim::Constant")  # type: ignore[attr-defined]  # torch declares it nowhere
    values = (node.t("value") for node in constants if node.hasAttribute("value") and node.kindOf("value") == "t")
    return any(value.numel() >= FEWEST for value in values)
