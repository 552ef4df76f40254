"""Distance of probabilities on the forget atoms: Jensen-Shannon, activation distance, ZRF (theory §8)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from .counts import check_classes, keep_counted

FIXED_POINT = 2**30
"""Distances are summed in units of 2**-30: integers, exact in any order, and room for six billion pixels."""


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence over classes, in nats.

    .. math:: ½ KL(p ‖ m) + ½ KL(q ‖ m), \quad m = (p + q) / 2

    Args:
        p: probabilities ``[B, K, *spatial]``.
        q: the same of another model.

    Returns:
        float64 ``[B, *spatial]`` in [0, ln 2].

    Example:
        >>> jensen_shannon(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # ln 2
        tensor([0.6931], dtype=torch.float64)
    """
    p, q = p.double(), q.double()
    mean = (p + q) / 2
    ratio_p, ratio_q = (torch.where(mean > 0, x / mean, 1.0) for x in (p, q))
    return (torch.xlogy(p, ratio_p) + torch.xlogy(q, ratio_q)).sum(1).div(2).clamp(min=0)


class ProbabilityDistance(Metric):
    r"""Mean distance of two models' probabilities over the forget atoms.

    ``js`` = Jensen-Shannon divergence in nats, 0 to ln 2 = 0.693. ``activation`` = :math:`‖M_u − M_r‖_2` over
    classes, 0 to √2. 0 for the same probabilities, and *not* the goal: two retrainings of different seeds
    differ too, and their distance is the value to reach. NaN where no atom was seen.

    Args:
        kwargs: of ``torchmetrics.Metric``.

    Source: Nguyen et al., A Survey of Machine Unlearning (activation distance, JS divergence); theory §8.

    Example:
        >>> metric = ProbabilityDistance()
        >>> metric.update(torch.tensor([[[1.0, 0.6], [0.0, 0.4]]]), torch.tensor([[[0.0, 0.6], [1.0, 0.4]]]))
        >>> {name: round(value.item(), 4) for name, value in metric.compute().items()}  # half of ln 2, of √2
        {'js': 0.3466, 'activation': 0.7071}
    """

    is_differentiable = False
    higher_is_better: bool | None = False
    full_state_update = False

    total: Tensor
    atoms: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("atoms", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, probs: Tensor, reference: Tensor, where: Tensor | None = None, counted: Tensor | None = None
    ) -> None:
        """Compare a batch.

        Args:
            probs: softmax of the unlearnt model ``[B, K, *spatial]``.
            reference: softmax of the other model, of the same shape.
            where: bool ``[B, *spatial]``, the forget atoms (``role == Role.FORGET``); None = all pixels.
            counted: bool ``[B]``, False = padding, left out.

        Raises:
            ValueError: for other shapes, or values that are no probabilities.
        """
        where = torch.ones_like(probs[:, 0], dtype=torch.bool) if where is None else where
        if probs.shape != reference.shape or probs.ndim < 3 or where.shape != probs[:, 0].shape:
            raise ValueError(
                "probs and reference must be [B, K, *spatial] and where [B, *spatial], "
                f"got {list(probs.shape)}, {list(reference.shape)} and {list(where.shape)}"
            )
        probs, reference, where = keep_counted(counted, probs, reference, where)
        check_classes("where", where, 2)
        _check_probabilities("probs", probs)
        _check_probabilities("reference", reference)
        activation = (probs.double() - reference.double()).square().sum(1).sqrt()
        inside = where.bool()
        distances = torch.stack([jensen_shannon(probs, reference), activation])[:, inside]
        self.total += distances.mul(FIXED_POINT).round().long().sum(1)
        self.atoms += inside.sum()

    def compute(self) -> dict[str, Tensor]:
        """``js`` [nats] and ``activation``, 0-dim float64."""
        js, activation = self.total.double() / FIXED_POINT / self.atoms
        return {"js": js, "activation": activation}


class ZeroRetrainForgetting(ProbabilityDistance):
    r"""ZRF: how close the unlearnt model is to a network that never learnt anything.

    .. math:: ZRF = 1 - \frac{1}{|D_f|} Σ JS_2(M_u, T_d)

    with JS in bits, so in [0, 1], and T_d a randomly initialised network (the survey's entry on JS calls it
    competent; the incompetent one is meant).

    **A wrong goal for dilation artefacts.** A pixel of the ring has a right answer, background; a model that
    answers at random there scores high on ZRF and is wrong. Offered for comparison with the literature: judge
    by `ProbabilityDistance` to the retrained model. The constructor says so too.

    Args:
        kwargs: of ``torchmetrics.Metric``.

    Source: Chundawat et al. 2023 (Can Bad Teaching Induce Forgetting); theory §8.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     metric = ZeroRetrainForgetting()
        >>> metric.update(torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.5], [0.5]]]))
        >>> {name: round(value.item(), 4) for name, value in metric.compute().items()}
        {'zrf': 0.6887}
    """

    higher_is_better = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        rank_zero_warn(
            "ZRF rewards random answers on the forget set, but the right answer on a dilation ring is background: "
            "a high ZRF is no success here; compare ProbabilityDistance to the retrained model"
        )

    def compute(self) -> dict[str, Tensor]:
        """``zrf``, 0-dim float64."""
        return {"zrf": 1 - super().compute()["js"] / math.log(2)}


def _check_probabilities(name: str, probs: Tensor) -> None:
    if not probs.is_floating_point():
        raise ValueError(f"{name} must be float probabilities, got {probs.dtype}; take logits.softmax(1)")
    if probs.numel() == 0:
        return
    tolerance = 1e-3 if probs.dtype in (torch.float32, torch.float64) else 0.05
    off = (probs.double().sum(1) - 1).abs().max()
    if not bool(off <= tolerance) or bool((probs < 0).any()):  # `not <=` also catches NaN
        raise ValueError(f"{name} must be non-negative and sum to 1 over classes; take logits.softmax(1)")
