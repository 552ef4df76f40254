"""A picture of deletion capacity: how many images a fitted head can forget, beside the rates of theory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .accounting import (
    curvature_excess_risk,
    deletion_capacity,
    newton_capacity_rate,
    privacy_capacity_rate,
    rounded_up,
    softmax_excess_risk,
)
from .pictures import COLOURS, INK, new_figure

_POINTS = 49
_GREY = "#666666"


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A strongly convex head at its minimiser.

    Args:
        ridge: λ > 0.
        num_classes: K.
        parameters: d.
        samples: n, images it was fitted to.
        trace: of the Hessian of its objective, ridge included.
        largest: largest eigenvalue of the same.
    """

    ridge: float
    num_classes: int
    parameters: int
    samples: int
    trace: float
    largest: float

    def capacity(self, epsilon: float, delta: float, samples: int | None = None) -> int:
        """Deletion capacity with the curvature of this head, at another n if one is given.

        Raises:
            ValueError: if an argument is out of range.
        """

        def excess(sigma: float, distance: float) -> float:
            return curvature_excess_risk(sigma, distance=distance, trace=self.trace, largest=self.largest)

        return self._capacity(epsilon, delta, samples, excess)

    def bound(self, epsilon: float, delta: float, samples: int | None = None) -> int:
        """The same with a bound on the excess risk that holds for every data set.

        Raises:
            ValueError: if an argument is out of range.
        """

        def excess(sigma: float, distance: float) -> float:
            return softmax_excess_risk(
                sigma, distance=distance, num_classes=self.num_classes, ridge=self.ridge, parameters=self.parameters
            )

        return self._capacity(epsilon, delta, samples, excess)

    def _capacity(
        self, epsilon: float, delta: float, samples: int | None, excess: Callable[[float, float], float]
    ) -> int:
        return deletion_capacity(epsilon, delta, samples=samples or self.samples, ridge=self.ridge, excess_risk=excess)


def capacity_figure(
    heads: Sequence[FittedHead],
    *,
    epsilon: float = 1.0,
    delta: float = 1e-7,
    samples: tuple[int, int] = (100, 10**8),
    epsilons: tuple[float, float] = (0.1, 10.0),
    at: int = 10**7,
) -> Figure:
    """Deletion capacity of the Newton step against n and against ε, beside its rate and that of differential privacy.

    The rates have no constants, so only their slopes can be compared. Where a capacity is 0 its line starts later.

    Args:
        heads: the same head at several λ, at least one.
        epsilon: of the left panel.
        delta: δ.
        samples: smallest and largest n of the left panel.
        epsilons: smallest and largest ε of the right panel.
        at: n of the right panel.

    Raises:
        ValueError: without a head, or for an argument out of range.
    """
    if not heads:
        raise ValueError("a picture of deletion capacity needs at least one fitted head")
    figure = new_figure(10.0, 4.9)
    left, right = figure.subplots(1, 2)
    size = {"parameters": heads[0].parameters}
    counts = np.geomspace(*samples, _POINTS).round()
    for head, colour in zip(heads, COLOURS, strict=False):
        _line(left, counts, [head.capacity(epsilon, delta, int(n)) for n in counts], colour, "-", f"λ = {head.ridge:g}")
        _line(left, counts, [head.bound(epsilon, delta, int(n)) for n in counts], colour, ":")
        if own := head.capacity(epsilon, delta):
            left.plot(head.samples, own, "o", color=colour, markersize=6)
    left.plot([], [], color=INK, linestyle=":", label="bound for every data set")
    for rate, style, name in _RATES:
        _line(left, counts, [rate(epsilon, delta, samples=int(n), **size) for n in counts], _GREY, style, name)
    left.axvline(heads[0].samples, color=_GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    left.text(heads[0].samples * 1.15, 0.97, "n of the fit", fontsize=8, color=INK, va="top",
              transform=left.get_xaxis_transform())  # fmt: skip
    grid = np.geomspace(*epsilons, _POINTS)
    for head, colour in zip(heads, COLOURS, strict=False):
        _line(right, grid, [head.capacity(float(e), delta, at) for e in grid], colour, "-")
        _line(right, grid, [head.bound(float(e), delta, at) for e in grid], colour, ":")
    for rate, style, _ in _RATES:
        _line(right, grid, [rate(float(e), delta, samples=at, **size) for e in grid], _GREY, style)
    _frame(left, "n (images of the training set)", f"ε = {rounded_up(epsilon)}, δ = {rounded_up(delta)}")
    _frame(right, "ε (no unit; smaller promises more)", f"n = {at:,}, δ = {rounded_up(delta)}")
    figure.suptitle(f"Deletion capacity of the Newton step, pixel head of d = {heads[0].parameters} parameters",
                    fontsize=11.5, color=INK)  # fmt: skip
    figure.legend(loc="outside lower center", ncols=4, fontsize=8.5, frameon=False)
    return figure


_RATES = (
    (newton_capacity_rate, "--", r"Newton rate $n\sqrt{\varepsilon}\,/\,(d \ln 1/\delta)^{1/4}$, no constant"),
    (privacy_capacity_rate, "-.", r"privacy rate $n\,\varepsilon\,/\sqrt{d \ln(e^\varepsilon/\delta)}$, no constant"),
)


def _line(axis: Axes, x: ArrayLike, y: ArrayLike, colour: str, style: str, label: str | None = None) -> None:
    """A curve; what is 0 has no place on a logarithmic axis."""
    values = np.asarray(y, float)
    width = 2.0 if style == "-" else 1.4
    axis.plot(x, np.where(values > 0, values, np.nan), color=colour, linestyle=style, linewidth=width, label=label)


def _frame(axis: Axes, x: str, title: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.8)
    axis.set_xlabel(x, fontsize=10)
    axis.set_ylabel("m (images that can be forgotten)", fontsize=10)
    axis.set_title(title, fontsize=10.5, color=INK)
    axis.tick_params(labelsize=9)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
