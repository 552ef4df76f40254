"""The block-and-noise images of Saab et al. (2022): the smallest data set in which coarse labels mislead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from .base import MaskDataModule
from .case import Arrays, Case, Part
from .parts.quota import quota

PARTS: tuple[Part, ...] = get_args(Part)


def place_blocks(rng: Generator, size: int, sides: Sequence[int]) -> NDArray[np.bool_]:
    """Square blocks at uniform places that do not overlap.

    The source does not say how overlap is avoided. Here all blocks are drawn again until they are disjoint,
    which makes every disjoint arrangement equally likely; redrawing one block alone would favour some.

    Args:
        rng: source of randomness.
        size: side of the image in pixels.
        sides: side of each block in pixels; 0 = no block.

    Returns:
        One mask per block, ``[len(sides), size, size]``.

    Example:
        >>> place_blocks(np.random.default_rng(0), 40, (8, 12)).sum(axis=(1, 2)).tolist()
        [64, 144]
    """
    while True:
        masks = np.zeros((len(sides), size, size), dtype=bool)
        for mask, side in zip(masks, sides, strict=True):
            row, column = rng.integers(size - side + 1, size=2)
            mask[row : row + side, column : column + side] = True
        if masks.sum(axis=0).max() <= 1:
            return masks


class SaabSynthetic(MaskDataModule):
    """A weak abnormal block and a strong spurious block in Gaussian noise.

    Pixels are N(0, σ²) in the background, N(μ_a, σ²) in the abnormal block (class 1) and N(μ_s, σ²) in the
    spurious one (artefact 1, flag ``any``), with |μ_a| < |μ_s|. In training ``P(s=1|y=1) = ρ`` and
    ``P(s=1|y=0) = 0``; in test ``P(s=1|y) = 0.5``. Validation, which the recipe lacks, follows training.
    These are shares, not draws: numbers of images are rounded expectations. The recipe coarsens with
    ``SpecificityWindow(r)``, r = 1 to 40.

    Args:
        size: image side n in pixels.
        abnormal_side: side a of the abnormal block.
        spurious_side: side b of the spurious block.
        abnormal_mean: μ_a.
        spurious_mean: μ_s.
        noise: σ.
        train_images: number m of training images.
        val_images: number of validation images.
        test_images: number of test images.
        prevalence: μ_y, share of abnormal images in training and validation.
        test_prevalence: the same in test.
        correlation: ρ.
        seed: seed of the whole data set.
        kwargs: see :class:`MaskDataModule`.

    Raises:
        ValueError: naming the argument that is out of range.

    Source:
        Saab, Hooper, Chen, Zhang, Rubin, Ré, "Reducing reliance on spurious features in medical image
        classification with spatial specificity", MLHC 2022, section 3.2.2.

    Example:
        >>> data = SaabSynthetic()
        >>> arrays = data.read(data.part("train")[0])
        >>> arrays.image.shape, int(arrays.mask.sum()) in (0, 64)
        ((1, 40, 40), True)
    """

    def __init__(
        self,
        *,
        size: int = 40,
        abnormal_side: int = 8,
        spurious_side: int = 12,
        abnormal_mean: float = 2.0,
        spurious_mean: float = -10.0,
        noise: float = 1.0,
        train_images: int = 150,
        val_images: int = 50,
        test_images: int = 400,
        prevalence: float = 0.9,
        test_prevalence: float = 0.5,
        correlation: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.sides = (abnormal_side, spurious_side)
        self.means = (abnormal_mean, spurious_mean)
        self.noise = noise
        self.numbers: dict[Part, int] = {"train": train_images, "val": val_images, "test": test_images}
        self.prevalences: dict[Part, float] = {
            "train": prevalence,
            "val": prevalence,
            "test": test_prevalence,
        }
        trained, tested = (0.0, correlation), (0.5, 0.5)
        self.spurious_rates: dict[Part, tuple[float, float]] = {
            "train": trained,
            "val": trained,
            "test": tested,
        }
        self.seed = seed
        rates = {"prevalence": prevalence, "test_prevalence": test_prevalence, "correlation": correlation}
        self._check(rates)

    def _check(self, rates: Mapping[str, float]) -> None:
        if min(self.sides) < 1 or sum(self.sides) > self.size:
            raise ValueError(
                f"blocks of sides {self.sides} do not fit beside each other into {self.size} pixels; "
                "abnormal_side + spurious_side must not exceed size"
            )
        for part, number in self.numbers.items():
            if number < 1:
                raise ValueError(f"{part}_images must be at least 1, got {number}")
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {rate}")
        if self.noise < 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, background first."""
        return ["normal", "abnormal"]

    def cases(self) -> list[Case]:
        """All images of all parts; nothing is drawn yet."""
        return [case for part in PARTS for case in self._part_cases(part)]

    def _part_cases(self, part: Part) -> list[Case]:
        number = self.numbers[part]
        rng = Generator(PCG64(SeedSequence((self.seed, PARTS.index(part)))))
        labels = quota(rng, number, self.prevalences[part]).astype(np.int64)
        spurious = np.zeros(number, dtype=np.int64)
        for label, rate in enumerate(self.spurious_rates[part]):
            spurious[labels == label] = quota(rng, int((labels == label).sum()), rate)
        return [
            Case(id=f"{part}-{i:05d}", label=int(labels[i]), part=part, flags={"any": int(spurious[i])})
            for i in range(number)
        ]

    def read(self, case: Case) -> Arrays:
        """Draw one case."""
        index = int(case.id.rpartition("-")[2])
        # 1 + index: a trailing zero would give image 0 the stream that drew the labels
        rng = Generator(PCG64(SeedSequence((self.seed, PARTS.index(case.part), 1 + index))))
        # an absent block is not placed at all: making room for it would push the other one to the border
        shown = (case.label, case.flags["any"])
        abnormal, spurious = place_blocks(
            rng, self.size, [side * on for side, on in zip(self.sides, shown, strict=True)]
        )
        mean = self.means[0] * abnormal + self.means[1] * spurious
        image = mean + self.noise * rng.standard_normal(mean.shape)
        return Arrays(
            image=image[None].astype(np.float32),
            mask=abnormal.astype(np.int64),
            artefact=spurious.astype(np.uint8),
        )
