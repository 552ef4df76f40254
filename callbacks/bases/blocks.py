"""Blocks of any network, and operators that train the last of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ...masks import View
from ...weights import state_digest
from .operator import UnlearningOperator


@dataclass(frozen=True)
class Block:
    """A layer with a kernel or weight matrix, and the norms and activations with parameters that follow it.

    Args:
        name: of the layer, within the module.
        layers: that own the parameters.
        parameters: by their names within the module.
    """

    name: str
    layers: tuple[nn.Module, ...]
    parameters: dict[str, nn.Parameter]


def blocks_of(module: nn.Module) -> list[Block]:
    """All blocks, in the order in which the network registers its layers, which is that of the forward pass in most.

    A layer begins a block if one of its own parameters has two or more axes; one with vectors and scalars only (a
    normalisation, a PReLU) belongs to the block before it.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
        >>> [(block.name, list(block.parameters)) for block in blocks_of(net)]
        [('0', ['0.weight', '0.bias', '1.weight', '1.bias']), ('3', ['3.weight', '3.bias'])]
    """
    found: list[tuple[str, list[nn.Module], dict[str, nn.Parameter]]] = []
    inside: list[str] = []
    for name, layer in module.named_modules():
        if any(name.startswith(prefix) for prefix in inside):
            continue
        whole = is_parametrized(layer)
        if whole:
            inside.append(f"{name}.parametrizations")
        own = {f"{name}.{key}" if name else key: value for key, value in layer.named_parameters(recurse=whole)}
        if not own:
            continue
        if not found or any(is_lazy(parameter) or parameter.ndim > 1 for parameter in own.values()):
            found.append((name, [], {}))
        found[-1][1].append(layer)
        found[-1][2].update(own)
    return [Block(name, tuple(layers), parameters) for name, layers, parameters in found]


class LastBlocks(UnlearningOperator, base=True):
    """Train the last ``k`` blocks of the network and leave every other parameter as it is, to the bit.

    A block is a layer with a kernel or weight matrix with the normalisations and activations that follow it, counted
    in the order in which the network registers its layers; the record names those that were trained. Running
    statistics of all normalisation layers start anew on retained data.

    Args:
        k: blocks to train, counted from the output.
        only_fine: train on the finely annotated images alone, instead of all that the retain view offers.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for k < 1.
        MisconfigurationException: before the first step, if the network has no more than k blocks, if a parameter is
            shared by a trained and an untouched block, if a parameter of a trained block is frozen, or if the loss
            does not depend on one of the last k blocks.
    """

    view = View.RETAIN
    instead: str
    """The operator to use where all blocks would be trained."""

    def __init__(self, k: int, only_fine: bool, folder: str | Path | None = None) -> None:
        super().__init__(folder)
        if k < 1:
            raise ValueError(f"k counts the blocks to train, so it is at least 1; got {k}")
        self.k = k
        self.only_fine = only_fine
        if only_fine:
            self.view = View.FINE_SUBSET
        self._trained: Sequence[Block] = ()
        self._untouched: dict[str, nn.Parameter] = {}
        self._required: list[tuple[nn.Parameter, bool]] = []
        self._loss_seen = False

    def check_module(self, module: nn.Module) -> None:
        """Find the blocks; refuse a module of too few, or whose last ones cannot be trained by themselves."""
        super().check_module(module)
        blocks = blocks_of(module)
        if len(blocks) <= self.k:
            raise MisconfigurationException(
                f"{type(module).__name__} has {len(blocks)} blocks, so k = {self.k} leaves none untouched; "
                f"lower k, or use {self.instead}"
            )
        self._trained = blocks[-self.k :]
        self._untouched = {name: p for block in blocks[: -self.k] for name, p in block.parameters.items()}
        self._check_blocks()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze the other blocks: now, because distributed training registers parameters before ``on_fit_start``."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self.check_module(pl_module)
        # Kept to be given back: a user may have frozen some of them.
        self._required = [(p, p.requires_grad) for p in self._untouched.values()]
        for parameter in self._untouched.values():
            parameter.requires_grad_(False)

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Note which blocks are trained, and what the others hold."""
        self._loss_seen = False
        names = [block.name for block in self._trained]
        self._record["trained_blocks"] = names
        self._record["trained_parameters"] = sum(p.numel() for b in self._trained for p in b.parameters.values())
        self._record["untouched_weights"] = state_digest(self._untouched)
        rank_zero_info(f"{type(self).__name__}: trains {', '.join(names)}; {len(self._untouched)} tensors stay")

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """The checkpoint holds the trained blocks; the others are compared with the record at the end."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Refuse a loss that none of the last blocks takes part in; autograd would only say that it has no gradient."""
        if not loss.requires_grad:
            raise self._outside([block.name for block in self._trained])

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse blocks that the loss does not reach: they would count as trained."""
        if self._loss_seen:
            return
        self._loss_seen = True
        outside = [b.name for b in self._trained if all(p.grad is None for p in b.parameters.values())]
        if outside:
            raise self._outside(outside)

    def shortfall(self) -> str | None:
        """Parameters that had to stay may have been changed by something else than a gradient."""
        if state_digest(self._untouched) != self._record["untouched_weights"]:
            return (
                "parameters outside of the last blocks changed although they have no gradient; remove what writes "
                "them (a callback, weight averaging, an optimiser that ignores requires_grad)"
            )
        return None

    def put_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Give the other blocks their gradients back."""
        super().put_back(trainer, module)
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        self._required = []

    def _outside(self, names: list[str]) -> MisconfigurationException:
        return MisconfigurationException(
            f"the loss does not depend on {', '.join(names)}, counted among the last {self.k} blocks because the "
            "network registers them last; raise k by as many, or take them out of the network"
        )

    def _check_blocks(self) -> None:
        trained = {name: p for block in self._trained for name, p in block.parameters.items()}
        untouched = {id(p): name for name, p in self._untouched.items()}
        for name, parameter in trained.items():
            if id(parameter) in untouched:
                raise MisconfigurationException(
                    f"{name} and {untouched[id(parameter)]} are one parameter, which would be trained and left "
                    "untouched at once; choose k such that both are trained or neither"
                )
            if not parameter.requires_grad:
                raise MisconfigurationException(
                    f"{name} is frozen, but belongs to the last {self.k} blocks; unfreeze it, or lower k"
                )
