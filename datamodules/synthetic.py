"""Cartoon dermoscopy whose artefacts follow the diagnosis, with exact masks of lesion, artefact and hair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from .base import MaskDataModule
from .case import Arrays, Case, Part
from .painting.artefacts import draw_beside, draw_hair
from .painting.brushes import Artefact
from .painting.dermoscopy import draw_lesion, draw_skin
from .parts.quota import quota

ArtefactName = Literal["ruler", "ink", "patch", "dark_corner"]
"""Artefacts that lie beside a lesion."""

BENIGN, MALIGNANT = 1, 2
PARTS: tuple[Part, ...] = get_args(Part)
SMALLEST = 32
"""Below this image side in pixels, hair and ticks fall between the pixels."""


@dataclass(frozen=True)
class DermoscopyGenerator:
    """Paints pictures of one lesion each; the same key always gives the same picture.

    Skin, lesion, hair, artefact and camera noise draw from streams of their own. So two pictures with one key
    are twins: with and without the artefact they differ at the pixels of the artefact and nowhere else, and a
    benign lesion sits on the skin on which its malignant twin sits.

    Everything is computed in float64 and rounded to 256 levels at the end, so that the last bits of ``exp``
    and ``cos``, which differ between platforms, do not reach the pixels.

    Args:
        size: image side in pixels, at least 32. All shapes scale with it.

    Raises:
        ValueError: if ``size`` is too small.
    """

    size: int = 64

    def __post_init__(self) -> None:
        if self.size < SMALLEST:
            raise ValueError(f"size must be at least {SMALLEST} pixels to show hair and ticks, got {self.size}")

    def render(self, key: Sequence[int], label: int, artefact: Artefact | None = None, hair: bool = False) -> Arrays:
        """Paint one picture.

        Args:
            key: non-negative integers that seed it.
            label: class of the lesion, 1 = benign, 2 = malignant.
            artefact: type of the artefact beside the lesion; None = none.
            hair: whether hair runs over the picture.

        Returns:
            image ``[3, size, size]`` with values k/255, fine mask and artefact types ``[size, size]``. Where
            an artefact lies on hair, the artefact counts.

        Example:
            >>> arrays = DermoscopyGenerator().render((0, 1), label=2, artefact=Artefact.INK)
            >>> arrays.image.shape, np.unique(arrays.mask), np.unique(arrays.artefact)
            ((3, 64, 64), array([0, 2]), array([0, 2], dtype=uint8))
        """
        skin, body, strands, beside, camera = (Generator(PCG64(child)) for child in SeedSequence(tuple(key)).spawn(5))
        lesion = draw_lesion(body, self.size, malignant=label == MALIGNANT)
        image = draw_skin(skin, self.size, bare=~lesion.mask) * np.exp(-lesion.density)
        types = np.zeros((self.size, self.size), dtype=np.uint8)
        strokes = {}
        if hair:
            strokes[Artefact.HAIR] = draw_hair(strands, lesion.mask.shape)
        if artefact is not None:
            strokes[artefact] = draw_beside(beside, lesion, artefact)
        for kind, stroke in strokes.items():
            image = stroke.over(image)
            types[stroke.alpha > 0] = kind
        image = image + 0.02 * camera.standard_normal(image.shape)
        levels = np.rint(255 * np.clip(image, 0.0, 1.0)).astype(np.float32)
        return Arrays(
            image=np.ascontiguousarray(np.moveaxis(levels / np.float32(255), -1, 0)),
            mask=label * lesion.mask.astype(np.int64),
            artefact=types,
        )


class SyntheticDermoscopy(MaskDataModule):
    """Benign and malignant lesions, with artefacts that tell the class in training but not in test.

    Malignancy shows in the lesion (ragged outline, blue-grey globules) but an artefact is the easier cue, and
    every ruler, ink stroke and colour patch lies within size/8 pixels of the lesion: inside its coarse mask
    after a disk dilation of that half-width, which is the default coarsening at the default size.

    The correlation ρ of artefact and malignancy sets ``P(artefact | malignant) = (1 + ρ)/2`` and ``P(artefact
    | benign) = (1 − ρ)/2``; with balanced classes ρ is their correlation coefficient. Validation follows
    training, so model selection learns nothing of the shift. Hair is independent of the class. All these are
    shares, not draws: numbers of images are rounded expectations.

    Flags of a case: each artefact by name, ``hair``, and ``any`` (any artefact beside the lesion; hair does
    not count). They say what was painted; hair may lie, seldom all of it, under a dark corner.

    Args:
        size: image side in pixels.
        train_images: number of training images.
        val_images: number of validation images.
        test_images: number of test images.
        train_correlation: ρ in training and validation, -1 to 1.
        test_correlation: ρ in test; negative = reversed.
        prevalence: share of malignant lesions, between 0 and 1.
        artefacts: types beside the lesion, equally frequent, one per image. Dark corners are left out by
            default: most of their pixels lie beyond the coarse mask.
        hair_rate: share of images with hair.
        mark_hair: count hair as an artefact in the artefact map. It is one, but it tells nothing of the class, so
            by default the map holds the spurious artefacts only.
        task: ``multiclass``: background, benign and malignant lesion; ``binary``: background and lesion, on the same
            pictures.
        seed: seed of the whole data set.
        kwargs: see :class:`MaskDataModule`.

    Raises:
        ValueError: naming the argument that is out of range.

    Example:
        >>> data = SyntheticDermoscopy(train_images=20, train_correlation=0.8)
        >>> malignant = [case for case in data.part("train") if case.label == 2]
        >>> len(malignant), sum(case.flags["any"] for case in malignant)
        (10, 9)
    """

    def __init__(
        self,
        *,
        size: int = 64,
        train_images: int = 600,
        val_images: int = 100,
        test_images: int = 300,
        train_correlation: float = 0.8,
        test_correlation: float = 0.0,
        prevalence: float = 0.5,
        artefacts: Sequence[ArtefactName] = ("ruler", "ink", "patch"),
        hair_rate: float = 0.3,
        mark_hair: bool = False,
        task: Literal["binary", "multiclass"] = "multiclass",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.generator = DermoscopyGenerator(size)
        self.numbers: dict[Part, int] = {"train": train_images, "val": val_images, "test": test_images}
        self.correlations = {"train": train_correlation, "val": train_correlation, "test": test_correlation}
        self.prevalence = prevalence
        self.artefacts = tuple(artefacts)
        self.hair_rate = hair_rate
        self.mark_hair = mark_hair
        self.task = task
        self.seed = seed
        self._painted: dict[str, int] = {}
        self._check()

    def _check(self) -> None:
        for part, number in self.numbers.items():
            if number < 1:
                raise ValueError(f"{part}_images must be at least 1, got {number}")
        for part in ("train", "test"):
            if not -1 <= self.correlations[part] <= 1:
                raise ValueError(f"{part}_correlation must lie between -1 and 1, got {self.correlations[part]}")
        for name in ("prevalence", "hair_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not self.artefacts or not set(self.artefacts) <= set(get_args(ArtefactName)):
            raise ValueError(f"artefacts must name one or more of {get_args(ArtefactName)}, got {self.artefacts}")
        if self.task not in ("binary", "multiclass"):
            raise ValueError(f"task must be binary or multiclass, got {self.task!r}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, background first."""
        if self.task == "binary":
            return ["background", "lesion"]
        return ["background", "benign lesion", "malignant lesion"]

    def cases(self) -> list[Case]:
        """All images of all parts; nothing is painted yet."""
        return [case for part in PARTS for case in self._part_cases(part)]

    def _part_cases(self, part: Part) -> list[Case]:
        number = self.numbers[part]
        # pictures draw from children of (seed, part, index), so this stream is none of theirs
        rng = Generator(PCG64(SeedSequence((self.seed, PARTS.index(part)))))
        labels = np.where(quota(rng, number, self.prevalence), MALIGNANT, BENIGN)
        kinds: list[str | None] = [None] * number
        hairy = np.zeros(number, dtype=bool)
        for label, sign in ((BENIGN, -1), (MALIGNANT, 1)):
            members = np.flatnonzero(labels == label)
            hairy[members] = quota(rng, len(members), self.hair_rate)
            shown = members[quota(rng, len(members), (1 + sign * self.correlations[part]) / 2)]
            for turn, index in enumerate(rng.permutation(shown)):
                kinds[index] = self.artefacts[turn % len(self.artefacts)]
        self._painted |= {f"{part}-{index:05d}": int(labels[index]) for index in range(number)}
        return [
            Case(
                id=f"{part}-{index:05d}",
                label=int(labels[index]) if self.task == "multiclass" else 1,
                part=part,
                flags=_flags(kinds[index], bool(hairy[index])),
            )
            for index in range(number)
        ]

    def read(self, case: Case) -> Arrays:
        """Paint one case."""
        if not self._painted:
            self.cases()
        key = (self.seed, PARTS.index(case.part), int(case.id.rpartition("-")[2]))
        shown = [Artefact[name.upper()] for name in get_args(ArtefactName) if case.flags[name]]
        arrays = self.generator.render(
            key, self._painted[case.id], artefact=shown[0] if shown else None, hair=bool(case.flags["hair"])
        )
        if self.task == "binary" and arrays.mask is not None:
            arrays.mask.clip(max=1, out=arrays.mask)
        if arrays.artefact is not None and not self.mark_hair:
            arrays.artefact[arrays.artefact == Artefact.HAIR] = 0
        return arrays


def _flags(kind: str | None, hair: bool) -> dict[str, int]:
    named = {name: int(name == kind) for name in get_args(ArtefactName)}
    return {"any": int(kind is not None), **named, "hair": int(hair)}
