"""How far each layer moved, beside how far retraining would have moved it (theory §8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NOT_WEIGHTS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""Statistics of normalisation layers: data in a state dict, in units of activations, not of weights."""

TOTAL = "all"
"""Name of the last row of the table, over all layers."""


@dataclass(frozen=True)
class LayerDistance:
    """One row of `layer_distances`; norms are Euclidean.

    Args:
        layer: name of the module that holds the weights; ``TOTAL`` for the whole network.
        parameters: number of weights.
        moved: ``‖w_original − w_unlearnt‖``.
        retrained: ``‖w_original − w_retrained‖``, NaN without a retrained model.
        remaining: ``‖w_unlearnt − w_retrained‖``, NaN without a retrained model.
    """

    layer: str
    parameters: int
    moved: float
    retrained: float
    remaining: float

    @property
    def ratio(self) -> float:
        """Moved over what retraining moved: far below 1 ineffective, far above 1 conspicuous; NaN for 0/0."""
        if self.retrained == 0:
            return float("nan") if self.moved == 0 else float("inf")
        return self.moved / self.retrained


def layer_distances(
    original: Mapping[str, Tensor], unlearnt: Mapping[str, Tensor], retrained: Mapping[str, Tensor] | None = None
) -> list[LayerDistance]:
    r"""Distance of the weights, layer by layer, :math:`‖w_l - w'_l‖_2`.

    Start ``retrained`` from the initialisation ``original`` was trained from: networks of other
    initialisations differ by permutations of their channels, and their distance then says nothing of
    forgetting. A layer that noise moved is far from everything; distance alone is no sign of forgetting.

    Args:
        original: weights by name before unlearning, as ``state_dict()`` gives them.
        unlearnt: weights after it.
        retrained: weights of a model trained without the forget set.

    Returns:
        One row per layer in the order of ``original``, then one for all of them. Integer tensors and running
        statistics are left out.

    Raises:
        ValueError: if names or shapes differ, naming the first.

    Source: Nguyen et al., A Survey of Machine Unlearning (layer-wise distance); theory §8.

    Example:
        >>> before, after = {"conv.weight": torch.zeros(2)}, {"conv.weight": torch.tensor([3.0, 4.0])}
        >>> [(row.layer, row.moved) for row in layer_distances(before, after)]
        [('conv', 5.0), ('all', 5.0)]
    """
    _check_same("unlearnt", unlearnt, original)
    if retrained is not None:
        _check_same("retrained", retrained, original)
    layers: dict[str, list[str]] = {}
    for name, tensor in original.items():
        layer, _, weight = name.rpartition(".")
        if tensor.is_floating_point() and weight not in NOT_WEIGHTS:
            layers.setdefault(layer, []).append(name)
    layers[TOTAL] = [name for names in layers.values() for name in names]
    return [
        LayerDistance(
            layer,
            sum(original[name].numel() for name in names),
            _distance(original, unlearnt, names),
            _distance(original, retrained, names),
            _distance(unlearnt, retrained, names),
        )
        for layer, names in layers.items()
    ]


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor] | None, names: list[str]) -> float:
    if other is None:
        return float("nan")
    squares = [(one[n].detach().cpu().double() - other[n].detach().cpu().double()).square().sum() for n in names]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _check_same(role: str, state: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> None:
    if differing := sorted(state.keys() ^ original.keys()):
        raise ValueError(
            f"{role} and original hold different weights, e.g. {differing[0]}; compare models of one architecture"
        )
    for name, tensor in original.items():
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"{name} is {list(tensor.shape)} in original but {list(state[name].shape)} in {role}; "
                "compare models of one architecture"
            )
