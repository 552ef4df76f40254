"""What gets no noise must not have learnt in the noisy phase: buffers, and parameters that are not exposed."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from ...weights import state_digest
from .unsaved_buffers import unchanged


class UnexposedState:
    """What a module holds beside the exposed parameters when the certified steps begin.

    Args:
        module: whose weights still carry the forget set.
        exposed: its parameters that get noise, by name.
    """

    def __init__(self, module: nn.Module, exposed: Mapping[str, Tensor]) -> None:
        self._exposed = {id(parameter): parameter for parameter in exposed.values()}  # kept, so that no id is reused
        self._buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
        self._frozen = self._digest(module)

    def check(self, module: nn.Module) -> None:
        """Refuse a module in which any of it changed; running statistics are reset before.

        Raises:
            MisconfigurationException: naming the first buffer, or for a parameter.
        """
        for name, buffer in module.named_buffers():
            if name not in self._buffers or not unchanged(buffer, self._buffers[name]):
                raise MisconfigurationException(
                    f"the buffer {name} changed in the noisy phase, when weights still carried the forget set, and it "
                    "is no running statistic that can be reset; use a layer without it (no spectral_norm, no averages)"
                )
        if self._digest(module) != self._frozen:
            raise MisconfigurationException(
                "a parameter that is not exposed changed in the noisy phase, when weights still carried the forget "
                "set, and it gets no noise; keep averages and teachers out of the module, or still until the hand-over"
            )

    def _digest(self, module: nn.Module) -> str:
        named = module.named_parameters()
        return state_digest({name: p.detach() for name, p in named if id(p) not in self._exposed})
