"""Spatial specificity: how tight a coarse mask is, and whether refining it helps (theory §7.4)."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor
from torchmetrics import Metric

from .counts import check_shapes, count_cells, fuse, keep_counted


def spurious_information_closed_form(gamma: Tensor | float, w: Tensor | float) -> Tensor:
    r"""Information between artefact and lesion inside a coarse mask, in nats (Saab et al. 2022, Prop. 4).

    With q = 1−γ and D = 1−wq the published three terms collect to

    .. math:: I(S;Y|Ỹ=1) = q (1-w) \ln(1-w) - w\, q \ln q - D \ln D

    which is exactly 0 at γ = 0 and γ = 1. It assumes that artefact and lesion do not overlap and that the
    artefact ignores the coarse mask given the fine one.

    Args:
        gamma: γ = P(Y=1|Ỹ=1) in [0, 1], the tightness of the coarse mask.
        w: P(S=1|Y=0) in [0, 1], broadcast with ``gamma``.

    Returns:
        float64, in nats per pixel.

    Example:
        >>> spurious_information_closed_form(torch.tensor([0.0, 0.5, 1.0]), 0.1)
        tensor([0.0000, 0.0360, 0.0000], dtype=torch.float64)
    """
    q = 1 - torch.as_tensor(gamma, dtype=torch.float64)
    clean = 1 - torch.as_tensor(w, dtype=torch.float64)
    off = 1 - (1 - clean) * q
    information = q * torch.xlogy(clean, clean) - (1 - clean) * torch.xlogy(q, q) - torch.xlogy(off, off)
    return information.clamp(min=0).abs()  # abs: no −0


def turning_point(w: float) -> float:
    r"""The tightness γ at which spurious information is largest.

    Setting the derivative in q = 1−γ to zero gives :math:`γ^* = 1 - 1/(w + (1-w)^{-(1-w)/w})`, from 1−1/e for
    small w down to ½.

    Args:
        w: P(S=1|Y=0) in [0, 1].

    Returns:
        γ*.

    Raises:
        ValueError: for w outside [0, 1].

    Example:
        >>> [round(turning_point(w), 3) for w in (0.0, 0.094, 1.0)]
        [0.632, 0.627, 0.5]
    """
    if not 0 <= w <= 1:
        raise ValueError(f"w = P(S=1|Y=0) must lie in [0, 1], got {w}")
    if w in (0.0, 1.0):
        return 1 - 1 / math.e if w == 0 else 0.5
    return 1 - 1 / (w + math.exp(-(1 - w) / w * math.log1p(-w)))


def break_even(gamma: float, w: float) -> float:
    """The tightness beyond which refining pays: the larger γ with as much spurious information.

    Args:
        gamma: γ of the present mask in [0, 1].
        w: P(S=1|Y=0) in [0, 1]; 0 = the limit of small w.

    Returns:
        The γ' ≥ γ* with ``I(γ') = I(γ)``, or ``gamma`` itself where it lies beyond γ* already.

    Raises:
        ValueError: for values outside [0, 1].

    Example:
        >>> round(break_even(0.3, 0.1), 2)
        0.88
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma = P(Y=1|Ỹ=1) must lie in [0, 1], got {gamma}")
    turn = turning_point(w)
    if gamma >= turn:
        return gamma
    if gamma == 0:
        return 1.0
    w = max(w, 1e-6)  # w only scales I in the limit

    def excess(other: float) -> float:
        return float(spurious_information_closed_form(other, w) - spurious_information_closed_form(gamma, w))

    return float(brentq(excess, turn, 1.0))


def refinement_advice(gamma: float, w: float = 0.0) -> str:
    """Say whether a tighter mask will carry less spurious information.

    Args:
        gamma: γ = P(Y=1|Ỹ=1) of the present mask, as `BoxTightness` measures it.
        w: P(S=1|Y=0), the share of background that artefacts cover; 0 = few artefacts.

    Returns:
        One sentence.

    Example:
        >>> print(refinement_advice(0.3, w=0.1))  # doctest: +NORMALIZE_WHITESPACE
        Tightness 0.30 is below the turning point 0.63: refining raises spurious information up to there,
        and pays only beyond tightness 0.88.
    """
    turn, even = turning_point(w), break_even(gamma, w)
    if gamma < turn:
        return (
            f"Tightness {gamma:.2f} is below the turning point {turn:.2f}: refining raises spurious "
            f"information up to there, and pays only beyond tightness {even:.2f}."
        )
    return f"Tightness {gamma:.2f} is beyond the turning point {turn:.2f}: any refinement lowers spurious information."


class BoxTightness(Metric):
    """Tightness γ = P(Y=1|Ỹ=1): the share of the coarse mask that is lesion (theory §7.4).

    Pixels of all images are pooled, classes ignored. NaN where no coarse mask was seen.

    Args:
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> metric = BoxTightness()
        >>> metric.update(torch.tensor([[0, 1, 0, 0]]), torch.tensor([[1, 1, 1, 1]]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    is_differentiable = False
    full_state_update = False

    inside: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("inside", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, mask: Tensor, coarse: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            mask: class of the fine mask ``[B, *spatial]``.
            coarse: class of the coarse mask ``[B, *spatial]``.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for maps of other shapes.
        """
        check_shapes(mask=mask, coarse=coarse)
        mask, coarse = keep_counted(counted, mask, coarse)
        self.inside += count_cells(fuse((coarse > 0, 2), (mask > 0, 2)), 4)[2:]

    def compute(self) -> Tensor:
        """γ, 0-dim float64."""
        return self.inside[1].double() / self.inside.sum()
