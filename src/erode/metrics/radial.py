"""Dice by distance from the image centre: where a network leans on position (theory §8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .counts import check_shapes, count_cells, fuse, keep_counted


def square_rings(shape: tuple[int, ...], width: float, rings: int) -> Tensor:
    """Number concentric square rings (cubic shells in 3-D) around the centre of an image.

    Args:
        shape: size of the image in pixels.
        width: of a ring in pixels.
        rings: number of rings; the last one also holds everything beyond.

    Returns:
        int64 of this shape, 0 = innermost.

    Example:
        >>> square_rings((1, 6), width=1.0, rings=2)
        tensor([[1, 1, 0, 0, 1, 1]])
    """
    axes = [(torch.arange(size) - (size - 1) / 2).abs() for size in shape]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).amax(0)
    return distance.div(width).floor().long().clamp(max=rings - 1)


class RadialDice(Metric):
    r"""Dice of the lesion in concentric square rings around the image centre.

    .. math:: \mathrm{Dice}_r = 2 |A ∩ B ∩ R_r| / (|A ∩ R_r| + |B ∩ R_r|)

    with the pixels of all images pooled, so that images whose lesion misses a ring do not count there. A fall
    towards the border which a retrained model does not show is a shortcut through position: centred crops,
    zero padding. ``ring_0`` is innermost; NaN where neither truth nor prediction has a pixel.

    Args:
        rings: number of rings; the last one also holds everything beyond.
        width: of a ring in pixels.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: for no ring or no width.

    Source: Lin, Weng et al. 2024 (Shortcut Learning in Medical Image Segmentation), with rings of 10 pixels at
    256 × 256; theory §8.

    Example:
        >>> metric = RadialDice(rings=2, width=1.0)
        >>> metric.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[1, 1, 1, 0]]]))
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'ring_0': 1.0, 'ring_1': 0.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Tensor

    def __init__(self, rings: int = 13, width: float = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if rings < 1 or not width > 0:
            raise ValueError(f"need rings >= 1 and width > 0 pixels, got {rings} and {width}")
        self.rings, self.width = rings, width
        self.add_state("counts", torch.zeros(rings, 2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, mask: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            pred: predicted class ``[B, *spatial]``, any foreground counts as lesion.
            mask: class of the fine mask ``[B, *spatial]``.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for maps of other shapes.
        """
        check_shapes(pred=pred, mask=mask)
        pred, mask = keep_counted(counted, pred, mask)
        ring = square_rings(tuple(mask.shape[1:]), self.width, self.rings).to(mask.device)
        codes = fuse((ring.expand_as(mask), self.rings), (pred > 0, 2), (mask > 0, 2))
        self.counts += count_cells(codes, self.rings * 4).view(self.rings, 2, 2)

    def compute(self) -> dict[str, Tensor]:
        """``ring_0``, …, 0-dim float64."""
        both = self.counts[:, 1, 1]
        dice = 2 * both.double() / (self.counts[:, 1].sum(1) + self.counts[:, :, 1].sum(1))
        return {f"ring_{r}": value for r, value in enumerate(dice.unbind())}
