"""The original model as a teacher: half the memory of its weights, and one forward pass without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ..batches.borrowed_weights import call_with, named_tensors
from ..batches.prediction import evaluating
from .own_loss import first_head


class Teacher:
    """Weights and running statistics of a module in bfloat16, and the module's own ``forward`` on them.

    Layers compute as the module does (its precision, its autocast): each tensor is widened when an operation reads
    it, and let go at once. So nothing but rounding the weights to 8 bits of mantissa sets the teacher apart from
    the original model, and no network has to support half precision.

    Args:
        module: tells the dtypes and the device of the weights.
        state: what :meth:`state` gave; None = the module's present weights.
    """

    def __init__(self, module: LightningModule, state: Mapping[str, Tensor] | None = None) -> None:
        own = named_tensors(module)
        source = own if state is None else state
        self._state = {name: _halved(source[name].detach()).to(own[name].device) for name in own}
        self._dtypes = {id(self._state[name]): tensor.dtype for name, tensor in own.items()}

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        return sum(tensor.nbytes for tensor in self._state.values())

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs to keep of it."""
        return dict(self._state)

    def logits(self, module: LightningModule, image: Tensor) -> Tensor:
        """What the original model says of images ``[B, C, *spatial]``: logits ``[B, K, *spatial]``, no gradient."""
        with evaluating(module), torch.no_grad(), _Widening(self._dtypes):
            logits = call_with(module, self._state, image)
        return first_head(logits, image, module)


class _Widening(TorchFunctionMode):
    """Hands the tensors that it knows to every operation in their original dtype."""

    def __init__(self, dtypes: Mapping[int, torch.dtype]) -> None:
        super().__init__()
        self._dtypes = dtypes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self._widened, (args, dict(kwargs or {})))
        return func(*args, **kwargs)

    def _widened(self, tensor: Tensor) -> Tensor:
        dtype = self._dtypes.get(id(tensor))
        return tensor if dtype is None else tensor.to(dtype)


def _halved(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16, copy=True) if tensor.is_floating_point() else tensor.clone()
