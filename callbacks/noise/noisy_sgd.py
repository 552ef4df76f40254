"""The optimiser of the noisy phase: one certified step, whole or not at all (theory §4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.autograd.graph import increment_version
from torch.nn import Parameter
from torch.optim import Optimizer

from ..guards.deferred import DeferredCheck
from ..guards.writes import versions
from .draws import DeviceDraw, Draw
from .replays import Replays

Vector = Sequence[Tensor]
"""Tensors that together are one vector: weights, gradients or the anchor, in the same order."""

Update = Callable[[Vector, Vector, Vector], None]
"""Changes weights in place, given (weights, gradients, anchor); all that a step does before the noise."""

_MARGIN = 1 - 1e-5
"""Vectors are scaled to this part of a bound: rounding of the scaling must not lift them above it.

What rounding does where they are added to weights is held back apart (:mod:`~erode.callbacks.noise.rounding`).
"""

_CHUNK = 2**16
"""Numbers of a norm that the CPU widens to double precision at once."""

_LOOK_EVERY = 16
"""Steps between two looks whether a CUDA device's weights are finite: what is not finite stays so."""


class NoisySGD(Optimizer):
    """Plain SGD whose step is backward pass, update and noise in one piece.

    Clipping lies within the step, behind every hook that could still touch the gradient (other callbacks, the
    Trainer's own clip), so their order does not change the mechanism: whatever they make of the gradient is
    clipped. Learning rate, decay and clip norm belong to ``update``; what other code writes into
    ``param_groups`` has no effect. There is no momentum and no state.
    Gradients are gone after a step: a module that does not zero them would carry one on past the next projection.

    Args:
        parameters: the exposed parameters, each once.
        anchor: θ₀ of each.
        update: the mechanism's update.
        noise: the noise of the step that comes, for the weights.
        account: called after each step.
        learning_rate: shown to those who log it.
        reach: norm that the weights cannot exceed, from which it follows what rounding can do to them.
        beside: other parameters of the module, which get no noise and take no step; their gradients go too.
        alike: that all steps are the same operations with the same constants, and nothing but launches on a CUDA
            device, so that they may be replayed there.

    Raises:
        MisconfigurationException: at a step, if something else wrote the weights since the step before.
        FloatingPointError: for a step whose gradient was not finite: at that step, and on a CUDA device, which is not
            made to wait, some steps later, at a checkpoint or the hand-over, whichever comes first. So for weights
            beyond ``reach``.
    """

    watches_weights = True
    """That nobody else writes them; see :class:`~erode.callbacks.guards.writes.Writes`."""

    def __init__(
        self,
        parameters: Sequence[Parameter],
        anchor: Vector,
        update: Update,
        noise: Callable[[Vector], Draw],
        account: Callable[[], None] = lambda: None,
        learning_rate: float = 0.0,
        reach: float = math.inf,
        alike: bool = False,
        beside: Iterable[Parameter] = (),
    ) -> None:
        super().__init__(parameters, {"lr": learning_rate})
        self._weights = list(parameters)
        self._beside = list(beside)
        self._anchor = anchor
        self._update = update
        self._noise = noise
        self._account = account
        self._reach = reach
        alike = alike and self._weights[0].is_cuda and len({p.dtype for p in self._weights}) == 1
        self._replays = Replays() if alike else None
        self._finite = DeferredCheck(_not_finite)
        self._steps = 0
        self._versions = versions(self._weights)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one certified step.

        Args:
            closure: zeroes the gradients, runs forward and backward pass, and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._finite.poll()
        self._check_untouched()
        with torch.no_grad():
            self._take(self._noise(self._weights))
            self._let_go()
            if not self._weights[0].is_cuda or self._steps % _LOOK_EVERY == 0:
                self._look()
        self._account()
        self._steps += 1
        self._versions = versions(self._weights)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the shown learning rate; refused for a step that was not finite, or was cut short."""
        # Within a step the weights have moved by what no account knows of: nobody may resume from there.
        self.settle()
        return super().state_dict()

    def settle(self) -> None:
        """Refuse weights that something else wrote since the last step, or one of whose steps was not finite."""
        self._look()
        self._finite.settle()
        self._check_untouched()

    def _take(self, draw: Draw) -> None:
        if self._replays is None or not isinstance(draw, DeviceDraw):
            self._update(self._weights, [_dense(p) for p in self._weights], self._anchor)
            draw.add_()
            return
        gradient = self._gathered()

        def operations() -> None:
            pieces = _unflatten_dense_tensors(gradient, self._weights)  # type: ignore[no-untyped-call]
            self._update(self._weights, pieces, self._anchor)
            draw.add_()

        self._replays.launch(operations, draw, gradient)
        increment_version(self._weights)  # a replay does not count as a write

    def _gathered(self) -> Tensor:
        """All gradients in one piece; they are let go, so that they are not held twice."""
        flat: Tensor = _flatten_dense_tensors([_dense(p) for p in self._weights])  # type: ignore[no-untyped-call]
        self._let_go()
        return flat

    def _let_go(self) -> None:
        for parameter in (*self._weights, *self._beside):
            parameter.grad = None

    def _look(self) -> None:
        # Whatever an update did, what is not finite stays so, whether scaled, averaged or noised.
        if self._weights[0].is_cuda:
            norm = vector_norm(self._weights)
        else:  # single precision tells that too
            norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm([p.detach() for p in self._weights]))))
        self._finite.ask(~(norm.isfinite() & (norm <= self._reach)))

    def _check_untouched(self) -> None:
        if versions(self._weights) != self._versions:
            raise MisconfigurationException(
                "another callback or hook wrote the exposed weights between two certified steps, or a step was cut "
                "short, so nothing is known of them any more; remove it, or let it run in a later fit on the released "
                "weights"
            )


def _dense(parameter: Parameter) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


def vector_norm(vector: Vector) -> Tensor:
    """Euclidean norm of the whole vector, in double precision where the device has it.

    Example:
        >>> vector_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]).item()
        5.0
    """
    pieces = [tensor.detach() for tensor in vector]
    if vector[0].device.type == "cpu":  # torch would widen a whole tensor
        pieces = [piece for tensor in pieces for piece in tensor.reshape(-1).split(_CHUNK)]  # type: ignore[no-untyped-call]
    dtype = torch.float32 if vector[0].device.type == "mps" else torch.float64
    norms: list[Tensor] = list(torch._foreach_norm(pieces, 2, dtype=dtype))
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def clip_(vector: Vector, radius: float) -> None:
    """Scale the whole vector, in place, to a norm of at most ``radius``.

    Args:
        vector: changed in place.
        radius: >= 0.

    Raises:
        FloatingPointError: if the vector is not finite: its direction is lost. A CUDA device is not made to wait for
            that: there the vector comes out not finite, and :class:`NoisySGD` refuses the step.

    Example:
        >>> vector = [torch.tensor([3.0]), torch.tensor([4.0])]
        >>> clip_(vector, 1.0)
        >>> [round(tensor.item(), 3) for tensor in vector]
        [0.6, 0.8]
    """
    norm = vector_norm(vector)
    if norm.device.type != "cuda" and not bool(norm.isfinite()):
        raise _not_finite()
    scale = radius * _MARGIN / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    dtypes = {tensor.dtype for tensor in vector}
    if len(dtypes) == 1:
        # Fused only if the factor has the dtype of the tensors. Rounded down: it may be so small that its last place
        # is more than the margin.
        scale = scale.to(dtypes.pop())
        scale = torch.nextafter(scale, -scale)
    torch._foreach_mul_(list(vector), scale.clamp_(max=1.0))


def project_(weights: Vector, anchor: Vector, radius: float) -> None:
    """Move weights, in place, to the ball of ``radius`` around the anchor: ``θ₀ + Π(x - θ₀)``.

    The difference is within ``radius``; adding the anchor rounds, by at most
    :func:`~erode.callbacks.noise.rounding.rounding_error`.

    Example:
        >>> weights = [torch.tensor([3.0, 5.0])]
        >>> project_(weights, [torch.tensor([0.0, 1.0])], radius=1.0)
        >>> [round(value, 3) for value in weights[0].tolist()]
        [0.6, 1.8]
    """
    torch._foreach_sub_(list(weights), list(anchor))
    clip_(weights, radius)
    torch._foreach_add_(list(weights), list(anchor))


def _not_finite() -> FloatingPointError:
    return FloatingPointError(
        "the gradient (or the weights) of the noisy phase is not finite, or the weights are further away than clipped "
        "steps and noise can carry them, so the step cannot be certified; look for the batch that makes the loss "
        "infinite, lower the learning rate, or look for what else moves the weights"
    )
