"""Whether code drew random numbers from a global generator."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def generator_states(device: torch.device) -> tuple[Any, ...]:
    """States of the global generators of Python, NumPy and torch; equal if nothing was drawn in between.

    Args:
        device: whose generator is looked at, beside the CPU's.

    Example:
        >>> before = generator_states(torch.device("cpu"))
        >>> before == generator_states(torch.device("cpu"))
        True
        >>> _ = torch.rand(1)
        >>> before == generator_states(torch.device("cpu"))
        False
    """
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the legacy generator is the global one
    own = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    return (torch.get_rng_state().numpy().tobytes(), own, kind, np.asarray(keys).tobytes(), *rest, random.getstate())
