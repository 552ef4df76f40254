"""Relearn time and anamnesis index: how fast forgotten data come back (theory §8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class RelearnTime:
    """Steps of training on the forget set until the model knows it again.

    Args:
        steps: the first measured step at which the threshold was met; the last step measured if it never was.
        reached: whether it was met.
    """

    steps: int
    reached: bool


def recovery_threshold(original: float, alpha: float, mode: Literal["min", "max"]) -> float:
    """The value that counts as relearnt: within a share α of the original model's.

    Args:
        original: value of the model before unlearning, on the forget set.
        alpha: α > 0, say 0.05.
        mode: "max" for accuracy or Dice, "min" for a loss or an error.

    Returns:
        ``(1 − α) · original`` or ``(1 + α) · original``.

    Raises:
        ValueError: for α outside (0, 1), or an original value that is not positive.

    Example:
        >>> recovery_threshold(0.8, 0.25, "max")
        0.6000000000000001
    """
    if not 0 < alpha < 1 or not original > 0 or not math.isfinite(original):
        raise ValueError(f"need 0 < alpha < 1 and a positive original value, got {alpha} and {original}")
    return (1 - alpha) * original if mode == "max" else (1 + alpha) * original


def relearn_time(
    steps: Sequence[int], values: Sequence[float], threshold: float, mode: Literal["min", "max"]
) -> RelearnTime:
    """Read a relearn time off a curve measured while training on the forget set.

    The curve should start at step 0, before any training: a model that has forgotten nothing needs 0 steps.
    The answer is no finer than the distance between measurements.

    Args:
        steps: optimiser steps, increasing.
        values: forget loss, error or accuracy at these steps; NaN never meets a threshold.
        threshold: the value to reach, see `recovery_threshold`.
        mode: "min" where small values mean knowing (loss, error), "max" where large ones do.

    Returns:
        The first step at which the threshold is met, or the last step and ``reached=False``.

    Raises:
        ValueError: for an empty curve, unequal lengths, or steps that do not increase.

    Source: Nguyen et al., A Survey of Machine Unlearning (relearn time); theory §8.

    Example:
        >>> relearn_time([0, 10, 20], [0.9, 0.5, 0.2], threshold=0.5, mode="min")
        RelearnTime(steps=10, reached=True)
    """
    if not steps or len(steps) != len(values) or any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"steps must increase, with one value each; got {list(steps)} and {len(values)} values")
    for step, value in zip(steps, values, strict=True):
        if value <= threshold if mode == "min" else value >= threshold:
            return RelearnTime(step, reached=True)
    return RelearnTime(steps[-1], reached=False)


def anamnesis_index(unlearnt: RelearnTime, scratch: RelearnTime) -> float:
    r"""Anamnesis index :math:`AIN = r(M_u) / r(M_{scratch})`.

    1 = the unlearnt model relearns as a fresh one does; far below 1 = it kept something of the forget set; far
    above 1 = it was damaged, which betrays that something was forgotten (Streisand effect). Both times need
    the same data, threshold, optimiser and step size; average over several relearning runs.

    Args:
        unlearnt: relearn time of the unlearnt model.
        scratch: relearn time of a freshly initialised model.

    Returns:
        The ratio; 0 where the unlearnt model knew everything from the start.

    Raises:
        ValueError: where a run stopped before it reached the threshold, or the fresh model met it untrained.

    Source: Chundawat et al. 2023 (Zero-shot machine unlearning); theory §8.

    Example:
        >>> anamnesis_index(RelearnTime(30, True), RelearnTime(120, True))
        0.25
    """
    if not scratch.reached:
        raise ValueError(
            f"the fresh model did not learn the forget set within {scratch.steps} steps; give it more steps"
        )
    if scratch.steps == 0:
        raise ValueError("the fresh model meets the threshold before any training; choose a stricter threshold")
    if not unlearnt.reached:
        raise ValueError(
            f"the unlearnt model did not relearn within {unlearnt.steps} steps: the index exceeds "
            f"{unlearnt.steps / scratch.steps:.3g}; give it more steps to know its value"
        )
    return unlearnt.steps / scratch.steps
