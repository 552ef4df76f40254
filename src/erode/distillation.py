"""Staying near a teacher, or leaving it: the divergence of SCRUB, pixel by pixel (theory §6)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def divergence_from_teacher(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """``T² · KL(teacher ‖ student)`` of every pixel, both softened by the temperature T.

    The factor T² keeps gradients of one size over temperatures (Hinton et al. 2015).

    Args:
        student: logits ``[B, K, *spatial]``.
        teacher: logits ``[B, K, *spatial]``; no gradient flows into them.
        temperature: T > 0; 1 = the probabilities themselves.

    Returns:
        float32 ``[B, *spatial]``, in nats times T²; never negative.

    Source: Kurmanji et al. 2023 (SCRUB), eq. 1, with the scaling of the released code.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0, 0.0]])
        >>> student = torch.tensor([[1.0, 3.0]]).log()
        >>> round(divergence_from_teacher(student, teacher, temperature=1).item(), 4)  # ½ln(½/¼) + ½ln(½/¾)
        0.1438
    """
    log_p = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
