"""Range checks shared by the accounting functions."""

from __future__ import annotations

import math
import sys
from numbers import Integral


def check_delta(delta: float) -> None:
    """Raise ValueError unless ``0 < delta < 1``, and not so small that floats lose digits of it."""
    if isinstance(delta, bool) or not sys.float_info.min <= delta < 1:
        raise ValueError(
            f"delta must be a number strictly between 0 and 1, at least {sys.float_info.min:.3g}, got {delta}; 1e-7 is "
            "a usual choice"
        )


def check_non_negative(**values: float) -> None:
    """Raise ValueError, naming the argument, unless every value is finite and at least 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, got {value}")


def check_positive(**values: float) -> None:
    """Raise ValueError, naming the argument, unless every value is finite and above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number > 0, got {value}")


def check_steps(steps: int) -> None:
    """Raise ValueError unless ``steps`` is a whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"steps must be a whole number >= 1, got {steps}: without a noisy step nothing is hidden")
