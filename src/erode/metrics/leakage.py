"""Leakage of artefacts into predictions (theory §7.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .counts import artefact_values, check_classes, check_shapes, count_cells, fuse, keep_counted


def leakage_rates(background: Tensor) -> dict[str, Tensor]:
    r"""Leakage and gap from the counts of background pixels.

    .. math:: \mathrm{Leak}_k = P(Z=k \mid S=1, Y=0), \qquad
       \mathrm{gap}_k = \mathrm{Leak}_k - P(Z=k \mid S=0, Y=0)

    Args:
        background: pixel counts ``[K+1, 2]`` by predicted class and artefact where Y = 0.

    Returns:
        0-dim float64 ``leak_class_k`` and ``gap_class_k`` per foreground class, ``leak_any`` and ``gap_any``
        for any foreground; NaN where no such pixel was seen.

    Example:
        >>> rates = leakage_rates(torch.tensor([[9, 1], [1, 4]]))  # 4 of 5 on it, 1 of 10 off it
        >>> round(rates["leak_class_1"].item(), 3), round(rates["gap_class_1"].item(), 3)
        (0.8, 0.7)
    """
    foreground = torch.cat([background[1:], background[1:].sum(0, keepdim=True)]).double()
    clean, leak = (foreground / background.sum(0)).unbind(1)
    names = [f"class_{k}" for k in range(1, len(background))] + ["any"]
    rates = {f"leak_{name}": leak[i] for i, name in enumerate(names)}
    return rates | {f"gap_{name}": leak[i] - clean[i] for i, name in enumerate(names)}


class SpuriousLeakage(Metric):
    """How often background is called lesion on artefacts, and how much more than off them (theory §7.2).

    Unlike spurious information the gap is monotone: 0 only if the artefact changes nothing. Pixels whose
    artefact is not annotated are left out; all types of artefact count as one.

    Args:
        num_classes: number of classes, background included.
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> metric = SpuriousLeakage(num_classes=2)
        >>> zeros = torch.zeros(1, 4, dtype=torch.long)
        >>> metric.update(torch.tensor([[1, 1, 1, 0]]), zeros, torch.tensor([[1, 1, 0, 0]]))
        >>> {name: value.item() for name, value in metric.compute().items() if "any" in name}
        {'leak_any': 1.0, 'gap_any': 0.5}
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    background: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        table = torch.zeros(num_classes, 2, dtype=torch.int64)
        self.add_state("background", table, dist_reduce_fx="sum")

    def update(self, pred: Tensor, mask: Tensor, artefact: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            pred: predicted class ``[B, *spatial]``, integer.
            mask: class of the fine mask ``[B, *spatial]``, integer.
            artefact: ``[B, *spatial]``, bool or type of artefact, ``UNKNOWN_ARTEFACT`` = not annotated.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for maps of other shapes, dtypes or ranges.
        """
        check_shapes(pred=pred, mask=mask, artefact=artefact)
        pred, mask, artefact = keep_counted(counted, pred, mask, artefact)
        check_classes("pred", pred, self.num_classes)
        check_classes("mask", mask, self.num_classes)
        codes = fuse((pred, self.num_classes), (artefact_values(artefact, 2), 3), (mask > 0, 2))
        self.background += count_cells(codes, self.num_classes * 6).view(-1, 3, 2)[:, 1:, 0]

    def compute(self) -> dict[str, Tensor]:
        """Rates as `leakage_rates` names them."""
        return leakage_rates(self.background)
