"""The division whose two sides say the most contrary things of artefacts and label: a mixed-integer programme."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

PENALTY = 1e3
"""Price of an artefact that is not reversed; no contrast of others outweighs it."""

PREFERENCE = 1e-6
"""Gain from an artefact that speaks in training as it does in the whole: it decides between equals."""


def most_contrary(labels: NDArray[np.bool_], flags: NDArray[np.int64], fraction: float) -> NDArray[np.float64]:
    r"""Share of each image's cell that goes to test so that training and test contradict each other most.

    A cell holds the images of equal label and flags. Test takes ``fraction`` of the positive and of the negative
    images. Then :math:`Δ_a = P(a | y=1) - P(a | y=0)` of artefact a is linear in the shares, in test and in the rest
    alike. Maximised is :math:`\sum_a |Δ_a^{rest} - Δ_a^{test}| / σ_a`, σ_a the standard deviation of the flag in all
    images, under the condition that the two have opposite signs (or, where the images do not allow that for all
    artefacts at once, violate it as little as possible in the worst of them). Which artefacts speak for the label in
    training follows from the optimum; where artefacts come together, it need not be those that do so in the whole.

    Args:
        labels: ``[N]``, positive or not; both occur.
        flags: ``[N, M]``, 0 or 1; both occur in each column.
        fraction: part of the images in test, of either label, between 0 and 1.

    Returns:
        ``[N]``, 0 to 1; equal for images of one cell.

    Example:
        >>> labels, ink = np.array([0, 0, 0, 1, 1, 1]) == 1, np.array([[0], [0], [1], [0], [1], [1]])
        >>> most_contrary(labels, ink, fraction=1 / 3).round(2).tolist()  # negative with, positive without
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    """
    cells, cell_of, sizes = np.unique(np.column_stack([labels, flags]), axis=0, return_inverse=True, return_counts=True)
    positive, marks = cells[:, 0] == 1, cells[:, 1:]
    of_label = np.stack([~positive, positive]) * sizes
    number = of_label.sum(axis=1)
    sigma = flags.std(axis=0)[:, None]
    # Δ_a / σ_a of the whole, of test and of the rest; the latter two as functions of the shares.
    part = marks.T * np.where(positive, sizes / number[1], -sizes / number[0]) / sigma
    whole = part.sum(axis=1, keepdims=True)
    test, rest, rest_at_zero = part / fraction, -part / (1 - fraction), whole / (1 - fraction)

    artefacts, many = len(part), len(cells)
    one, none = np.eye(artefacts), np.zeros((artefacts, artefacts))
    slack, no_slack = np.ones((artefacts, 1)), np.zeros((artefacts, 1))
    large = 4 / sigma * one  # no Δ exceeds 1
    # Variables: shares, contrasts, directions (1 = the artefact speaks for the label in training), violation.
    lines = [
        (np.hstack([-(rest - test), one, large, no_slack]), rest_at_zero + 4 / sigma),
        (np.hstack([rest - test, one, -large, no_slack]), -rest_at_zero),
        (np.hstack([test, none, large, -slack]), 4 / sigma),
        (np.hstack([-test, none, -large, -slack]), np.zeros_like(sigma)),
        (np.hstack([-rest, none, large, -slack]), rest_at_zero + 4 / sigma),
        (np.hstack([rest, none, -large, -slack]), -rest_at_zero),
    ]
    balance = np.hstack([of_label, np.zeros((2, 2 * artefacts + 1))])
    solution = milp(
        np.concatenate([np.zeros(many), -np.ones(artefacts), -PREFERENCE * np.sign(whole[:, 0]), [PENALTY]]),
        constraints=[
            *(LinearConstraint(matrix, -np.inf, bound[:, 0]) for matrix, bound in lines),
            LinearConstraint(balance, fraction * number, fraction * number),
        ],
        integrality=np.concatenate([np.zeros(many + artefacts), np.ones(artefacts), [0]]),
        bounds=Bounds(
            np.concatenate([np.zeros(many), np.full(artefacts, -np.inf), np.zeros(artefacts), [0]]),
            np.concatenate([np.ones(many), np.full(artefacts, np.inf), np.ones(artefacts), [np.inf]]),
        ),
        options={"mip_rel_gap": 1e-9},
    )
    if solution.x is None:
        raise RuntimeError(f"the solver found no division ({solution.message})")
    shares: NDArray[np.float64] = np.clip(solution.x[:many], 0, 1)[cell_of.reshape(-1)]
    return shares
