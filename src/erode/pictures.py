"""Drawing without global state: class colours, overlays, curves, and the gallery of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .batch import UNKNOWN_ARTEFACT
from .files import write_atomically

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Colours of curves and foreground classes, told apart by colour-blind readers (Okabe and Ito)."""

ARTEFACT_COLOUR = "#00E5FF"
"""Outline of spurious artefacts: a colour that neither skin nor grey tissue has."""

INK = "#333333"


@dataclass(frozen=True)
class Sample:
    """One row of a gallery.

    Args:
        image: float ``[C, *spatial]``, 2-D or 3-D, in any unit.
        masks: class maps ``[*spatial]`` by column title, drawn from left to right.
        reference: title of the mask whose largest slice stands for a volume.
        artefact: ``[*spatial]`` artefact type, 0 = none, ``UNKNOWN_ARTEFACT`` = not annotated; None =
            unknown.
        title: written beside the row.
    """

    image: NDArray[np.floating]
    masks: Mapping[str, NDArray[np.integer]]
    reference: str
    artefact: NDArray[np.integer] | None = None
    title: str = ""


@dataclass(frozen=True)
class Panel:
    """One small chart of curves over optimiser steps.

    Args:
        title: what is shown.
        unit: label of the y axis, with the unit.
        curves: (steps, values) by legend entry; values that are not finite leave a gap.
        levels: horizontal dashed lines by legend entry of the curve they belong to.
    """

    title: str
    unit: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    levels: Mapping[str, float] = field(default_factory=dict)


def class_colour(k: int) -> str:
    """Colour of foreground class k >= 1; colours repeat after six classes."""
    return COLOURS[(k - 1) % len(COLOURS)]


def display_image(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Bring an image to colours that can be shown.

    Args:
        image: ``[C, H, W]``; values in 0..1 are kept, any others are stretched between their 1st and 99th
            percentile. One or two channels show the first in grey; of more than three, the first three are
            shown.

    Returns:
        ``[H, W, 3]`` in 0..1.

    Example:
        >>> display_image(np.array([[[-5.0, 5.0]]]))[0, :, 0]
        array([0., 1.])
    """
    shown = np.nan_to_num(np.asarray(image, np.float64))
    if shown.min() < 0 or shown.max() > 1:
        low, high = np.percentile(shown, (1, 99))
        shown = np.clip((shown - low) / max(high - low, np.finfo(np.float64).tiny), 0, 1)
    channels = shown[:3] if len(shown) >= 3 else np.repeat(shown[:1], 3, axis=0)
    return np.ascontiguousarray(channels.transpose(1, 2, 0))


def flatten_volume(sample: Sample) -> Sample:
    """Replace a volume by its slice (along the first spatial axis) with the largest reference mask.

    Example:
        >>> mask = np.zeros((3, 2, 2), int)
        >>> mask[1] = 1
        >>> flatten_volume(Sample(np.zeros((1, 3, 2, 2)), {"fine": mask}, "fine")).masks["fine"].sum()
        np.int64(4)
    """
    if sample.image.ndim == 3:
        return sample
    at = int((sample.masks[sample.reference] > 0).sum((1, 2)).argmax())
    masks = {name: mask[at] for name, mask in sample.masks.items()}
    artefact = None if sample.artefact is None else sample.artefact[at]
    return Sample(sample.image[:, at], masks, sample.reference, artefact, sample.title)


def gallery_figure(samples: Sequence[Sample], class_names: Sequence[str]) -> Figure:
    """Draw samples as rows: the image with outlined artefacts, then each mask over the image.

    Args:
        samples: all with the same mask titles.
        class_names: names of the classes, background first.

    Raises:
        ValueError: if there is nothing to draw.

    Example:
        >>> sample = Sample(np.zeros((1, 8, 8)), {"fine": np.eye(8, dtype=int)}, "fine")
        >>> len(gallery_figure([sample], ["background", "lesion"]).axes)
        2
    """
    if not samples:
        raise ValueError("a gallery needs at least one sample")
    rows = [flatten_volume(sample) for sample in samples]
    titles = ["image", *rows[0].masks]
    height, width = rows[0].image.shape[-2:]
    figure = new_figure(2.0 * len(titles) + 0.2, 2.0 * height / width * len(rows) + 0.7)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, sample in zip(axes, rows, strict=True):
        picture = display_image(sample.image)
        for axis, title in zip(line, titles, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if title in sample.masks:
                _overlay(axis, sample.masks[title], len(class_names))
            elif sample.artefact is not None:
                known = (sample.artefact > 0) & (sample.artefact != UNKNOWN_ARTEFACT)
                _outline(axis, known, ARTEFACT_COLOUR, linewidth=1.2)
        line[0].set_ylabel(sample.title, fontsize=9, color=INK)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=12, color=INK)
    handles: list[Patch | Line2D] = [
        Patch(facecolor=class_colour(k), label=name) for k, name in enumerate(class_names) if k > 0
    ]
    if any(sample.artefact is not None for sample in rows):
        handles.append(Line2D([], [], color=ARTEFACT_COLOUR, linewidth=2, label="artefact"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=11)
    return figure


def curves_figure(panels: Sequence[Panel], note: str = "") -> Figure:
    """Draw panels side by side, at most three in a row, over optimiser steps.

    Args:
        panels: at least one.
        note: small print below.

    Example:
        >>> len(curves_figure([Panel("loss", "nats", {"train": ([1, 2], [3.0, 2.0])})]).axes)
        1
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.6 * columns, 2.7 * rows + (0.3 if note else 0))
    for index, panel in enumerate(panels):
        axis = figure.add_subplot(rows, columns, index + 1)
        for (name, (steps, values)), colour in zip(panel.curves.items(), _cycle(len(panel.curves)), strict=True):
            x, y = np.asarray(steps, float), np.asarray(values, float)
            marker = "o" if len(x) <= 40 else ""
            axis.plot(x, y, marker=marker, markersize=3.5, linewidth=1.6, color=colour, label=name)
            if name in panel.levels and np.isfinite(panel.levels[name]):
                axis.axhline(panel.levels[name], linestyle="--", linewidth=1.1, color=colour)
        axis.set_title(panel.title, fontsize=11, color=INK)
        axis.set_xlabel("optimiser step", fontsize=9)
        axis.set_ylabel(panel.unit, fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if len(panel.curves) > 1 or panel.levels:
            handles = [*axis.get_legend_handles_labels()[0]]
            if panel.levels:
                handles.append(Line2D([], [], color="grey", linestyle="--", linewidth=1.1, label="original weights"))
            axis.legend(handles=handles, fontsize=8, frameon=False)
    if note:
        figure.supxlabel(note, fontsize=8.5, color="#666666")
    return figure


def new_figure(width: float, height: float, gap: float = 0.04) -> Figure:
    """A figure, in inches, that belongs to no global state; its parts keep twice the gap between them."""
    figure = Figure(
        figsize=(width, height), dpi=144, layout=ConstrainedLayoutEngine(h_pad=gap, w_pad=gap), facecolor="white"
    )
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, atomically."""
    return write_atomically(path, lambda target: figure.savefig(target, format="png"))


def rgb_array(figure: Figure) -> NDArray[np.uint8]:
    """The pixels ``[H, W, 3]`` of a figure, for loggers that take arrays."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()  # type: ignore[no-untyped-call]


def _overlay(axis: Axes, mask: NDArray[np.integer], num_classes: int) -> None:
    """Fill each class; outline the whole foreground, in the colour of its commonest class.

    Outlines of the single classes would drown a prediction that mixes them.
    """
    rgba = np.zeros((*mask.shape, 4))
    for k in range(1, num_classes):
        rgba[mask == k] = to_rgba(class_colour(k), 0.45)
    axis.imshow(rgba, interpolation="nearest")
    if (mask > 0).any():
        commonest = int(np.bincount(mask[mask > 0].ravel()).argmax())
        _outline(axis, mask > 0, class_colour(commonest))


def _outline(axis: Axes, region: NDArray[np.bool_], colour: str, linewidth: float = 1.8) -> None:
    """Trace the edge of a region; one pixel of padding closes the lines of regions that touch the border."""
    if region.any():
        height, width = region.shape
        padded = np.pad(region.astype(float), 1)
        axis.contour(
            np.arange(-1, width + 1), np.arange(-1, height + 1), padded, [0.5], colors=colour, linewidths=linewidth
        )
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
