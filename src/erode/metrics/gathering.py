"""Metrics that keep rows of images, gathered from all processes: also from those that saw no image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors


class RowsMetric(Metric):
    """A metric with states that grow by rows ``[n, ...]``, concatenated over batches and processes.

    torchmetrics lets a process without rows send a float32 vector of length 0. Where the others send another dtype or
    number of dimensions, the collective then breaks, and all processes with it. Here it sends no rows of the right
    kind; their widths need not be known, since no rows are left out before the others are joined.

    Args:
        kwargs: of ``torchmetrics.Metric``.

    Example:
        >>> class Kept(RowsMetric):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.add_rows("points", torch.float64, dimensions=2)
        ...
        ...     def update(self, points):
        ...         self.points.append(points.double())
        ...
        ...     def compute(self):
        ...         return sum(len(points) for points in self.points)
        >>> metric = Kept()
        >>> metric.update(torch.zeros(3, 2))
        >>> metric.compute()
        3
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._no_rows: dict[str, Tensor] = {}

    def add_rows(self, name: str, dtype: torch.dtype, dimensions: int = 1) -> None:
        """Register a state: an empty list, to which `update` appends rows.

        Args:
            name: of the attribute.
            dtype: of what is appended.
            dimensions: of what is appended, the rows themselves included.
        """
        self.add_state(name, [], dist_reduce_fx="cat")
        self._no_rows[name] = torch.zeros((0,) * dimensions, dtype=dtype)

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        # Called between torchmetrics' copy of the states and its return to them: what is set here does not stay.
        for name, nothing in self._no_rows.items():
            if not len(getattr(self, name)):
                setattr(self, name, [nothing.to(self.device)])

        def gather(state: Tensor, group: Any) -> list[Tensor]:
            parts: list[Tensor] = dist_sync_fn(state, group)
            # Of no rows the widths are 0, which do not join with those of others.
            return [part for part in parts if part.ndim == 0 or len(part)] or parts[:1]

        super()._sync_dist(gather, process_group)
