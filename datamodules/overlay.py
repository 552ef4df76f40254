"""Known artefacts on real images: painted when an image is read, with their pixels as the artefact mask."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from .case import Arrays, Case
from .painting.artefacts import draw_hair, draw_tube, draw_where_there_is_room, imaginary_spot
from .painting.brushes import Artefact, Spot, Stroke

OVERLAY_FLAG = "overlay"
"""Flag of the cases that an overlay is painted on."""

OverlayName = Literal["ruler", "ink", "patch", "dark_corner", "hair", "tube"]


@dataclass(frozen=True)
class Overlay:
    """Paints artefacts that tell the class in training, on images whose own artefacts nobody outlined.

    Ruler, ink, patch and dark corner lie beside the lesion, the first three within 1/8 of the shorter image side;
    hair and tube run across, over the lesion too. The finest mask there is decides where the lesion lies; images
    without one get the artefact anywhere, and images that a lesion fills get it over the lesion.

    What is painted depends on ``seed``, the id of the image and the size of its arrays, and on nothing else: not on
    the part, the order or the other images. An image that shows the artefact at some rate shows it at any higher one.

    Args:
        rates: P(artefact | class) in training and validation, by the name of the class; 0 for classes left out.
        test_rates: the same in test; None = in each class that is named or occurs, the mean of their rates: so there
            the artefact says nothing of the class.
        kinds: types of artefact, equally likely, one per image.
        seed: seed of what is painted, and where.

    Raises:
        ValueError: naming the argument that is out of range.

    Example:
        >>> overlay = Overlay({"benign": 0.1, "malignant": 0.9}, kinds=["ink"])
        >>> dict(overlay.completed([], ["background", "benign", "malignant"]).test_rates)
        {'benign': 0.5, 'malignant': 0.5}
        >>> arrays = Arrays(np.zeros((1, 64, 64), np.float32), np.zeros((64, 64), np.int64))
        >>> np.unique(overlay.paint(Case("a", 1, "train", {"overlay": 1}), arrays).artefact)
        array([0, 2], dtype=uint8)
    """

    rates: Mapping[str, float]
    test_rates: Mapping[str, float] | None = None
    kinds: Sequence[OverlayName] = ("ruler",)
    seed: int = 0

    def __post_init__(self) -> None:
        tested = {} if self.test_rates is None else {"test_rates": self.test_rates}
        for name, rates in {"rates": self.rates, **tested}.items():
            if not rates or not all(0 <= rate <= 1 for rate in rates.values()):
                raise ValueError(f"overlay: {name} must give classes probabilities between 0 and 1, got {rates}")
        if not self.kinds or not set(self.kinds) <= set(get_args(OverlayName)):
            raise ValueError(f"overlay: kinds must name one or more of {get_args(OverlayName)}, got {self.kinds}")
        if self.seed < 0:
            raise ValueError(f"overlay: seed must not be negative, got {self.seed}")

    def describe(self) -> dict[str, Any]:
        """Every setting as plain values."""
        return {
            "rates": dict(self.rates),
            "test_rates": None if self.test_rates is None else dict(self.test_rates),
            "kinds": list(self.kinds),
            "seed": self.seed,
        }

    def completed(self, cases: Sequence[Case], class_names: Sequence[str]) -> Overlay:
        """This overlay with rates for test, drawn up for these cases where nobody named any.

        A class whose images never show the artefact in training counts with its rate 0: without it the artefact would
        tell that class in test.

        Args:
            cases: cases of all parts.
            class_names: names of the classes, background first.
        """
        if self.test_rates is not None:
            return self
        occurring = [class_names[label] for label in sorted({case.label for case in cases}) if label < len(class_names)]
        classes = list(dict.fromkeys((*self.rates, *occurring)))
        mean = sum(self.rates.values()) / len(classes)
        return replace(self, test_rates=dict.fromkeys(classes, mean))

    def flag(self, cases: Sequence[Case], class_names: Sequence[str]) -> list[Case]:
        """Give every case the flag ``overlay``; their other flags, of what they show by nature, stay.

        Args:
            cases: cases of all parts.
            class_names: names of the classes, background first.

        Raises:
            ValueError: if a rate is given for a class that is none.
        """
        test_rates = self.completed(cases, class_names).test_rates
        trained, tested = self._rates(self.rates, class_names), self._rates(test_rates or {}, class_names)
        flagged = []
        for case in cases:
            rate = (tested if case.part == "test" else trained)[case.label]
            shown = int(Generator(PCG64(self._seed(case, 0))).random() < rate)
            flagged.append(replace(case, flags={**case.flags, OVERLAY_FLAG: shown}))
        return flagged

    def paint(self, case: Case, arrays: Arrays) -> Arrays:
        """Paint the artefact of a case, if its flag says so.

        Args:
            case: tells whether anything is painted; its id tells what.
            arrays: its pixels, two-dimensional, grey or in colour, intensities in [0, 1].

        Returns:
            the same masks; the image with the artefact; an artefact mask that holds the overlay and nothing else,
            for of artefacts that the image shows by nature the flag says nothing.

        Raises:
            ValueError: for volumes and for images with other than 1 or 3 channels.
        """
        if arrays.image.ndim != 3 or len(arrays.image) not in (1, 3):
            raise ValueError(
                f"{case.id}: overlays are for grey and colour pictures [1 or 3, height, width], "
                f"but its image has shape {list(arrays.image.shape)}; leave overlay out"
            )
        types = np.zeros(arrays.image.shape[1:], np.uint8)
        if not case.flags[OVERLAY_FLAG]:
            return replace(arrays, artefact=types)
        kind, stroke = self._stroke(case, arrays)
        types[stroke.alpha > 0] = kind
        colour = stroke.colour if len(arrays.image) == 3 else stroke.colour.mean(keepdims=True)
        image = Stroke(stroke.alpha, colour).over(np.moveaxis(arrays.image, 0, -1).astype(np.float64))
        painted = np.clip(np.moveaxis(image, -1, 0), 0.0, 1.0).astype(np.float32)
        # Outside the artefact an image keeps its values, whatever they are.
        return replace(arrays, image=np.where(types > 0, painted, arrays.image), artefact=types)

    def _stroke(self, case: Case, arrays: Arrays) -> tuple[Artefact, Stroke]:
        rng = Generator(PCG64(self._seed(case, 1)))
        kind = Artefact[self.kinds[int(rng.integers(len(self.kinds)))].upper()]
        spot = _spot(arrays, rng)
        if kind is Artefact.HAIR:
            return kind, draw_hair(rng, spot.mask.shape)
        if kind is Artefact.TUBE:
            return kind, draw_tube(rng, spot)
        return kind, draw_where_there_is_room(rng.integers(2**32, size=4).tolist(), spot, kind)

    def _seed(self, case: Case, use: int) -> SeedSequence:
        return SeedSequence((self.seed, use, *hashlib.sha256(case.id.encode()).digest()))

    def _rates(self, rates: Mapping[str, float], class_names: Sequence[str]) -> list[float]:
        unknown = sorted({*rates} - {*class_names})
        if unknown:
            raise ValueError(f"overlay: no class is named {unknown[0]!r}; choose of {', '.join(class_names)}")
        return [rates.get(name, 0.0) for name in class_names]


def _spot(arrays: Arrays, rng: Generator) -> Spot:
    mask: NDArray[np.int64] | None = arrays.coarse if arrays.mask is None else arrays.mask
    if mask is None or not mask.any():
        return imaginary_spot(rng, arrays.image.shape[1:])
    return Spot.of(mask > 0)
