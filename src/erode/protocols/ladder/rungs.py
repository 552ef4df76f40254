"""The rungs of the specificity ladder, from the label of an image to its exact mask (Saab et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...masks import BoundingBox, Coarsening, DiskDilation, SpecificityWindow

Robust = Literal["group_dro", "jtt"]
"""Objectives that are made for shortcuts, by name."""

ROBUST_TITLES: dict[Robust, str] = {"group_dro": "GroupDRO", "jtt": "JTT"}


@dataclass(frozen=True)
class Rung:
    """One way of labelling, and so one model.

    Args:
        name: for files.
        title: for people.
        coarsening: makes the masks that training sees.
        pixels: whether pixels are labelled; False = one label for the image, which a classifier learns.
        objective: by which the classifier learns; None = its own.
    """

    name: str
    title: str
    coarsening: Coarsening
    pixels: bool = True
    objective: Robust | None = None


def rungs(
    windows: Sequence[int], box: bool, half_widths: Sequence[float], objectives: Sequence[Robust] = ()
) -> list[Rung]:
    """Image label, windows, bounding box, dilations and exact mask.

    Args:
        windows: specificities r ≥ 1 of windows, larger = finer; 1 = the whole image is positive.
        box: whether the bounding box is a rung.
        half_widths: of disk dilations, in pixels.
        objectives: by which image labels are learnt once more.

    Example:
        >>> [rung.title for rung in rungs(windows=[1, 4], box=True, half_widths=[2])]
        ['image label', 'window r=1', 'window r=4', 'box', 'dilated 2 px', 'exact mask']
    """
    return [
        Rung("image", "image label", SpecificityWindow(1), pixels=False),
        *(
            Rung(f"image-{name}", f"image label, {ROBUST_TITLES[name]}", SpecificityWindow(1), False, name)
            for name in objectives
        ),
        *(Rung(f"window-{r}", f"window r={r}", SpecificityWindow(r)) for r in windows),
        *([Rung("box", "box", BoundingBox())] if box else []),
        *(Rung(f"dilated-{h:g}", f"dilated {h:g} px", DiskDilation(h)) for h in half_widths),
        Rung("exact", "exact mask", DiskDilation(0)),
    ]
