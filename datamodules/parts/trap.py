"""What divides images into a training and a test part whose artefacts tell opposite things of the label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ..case import Case


class Trap(ABC):
    """A division of images into parts such that a model that learnt the artefacts fails in test.

    Source: Bissoto et al. 2020, Debiasing Skin Lesion Datasets and Models? Not So Fast (trap sets); theory §8.
    """

    @abstractmethod
    def divide(
        self,
        cases: Sequence[Case],
        positive: Sequence[bool],
        fractions: tuple[float, float, float] | None,
        seed: int,
    ) -> list[Case]:
        """Put cases into parts.

        Args:
            cases: all images, in whatever parts; images of one ``group`` stay together.
            positive: whether each shows what image-level scores rank, e.g. a melanoma.
            fractions: parts of the images for training, validation and test; None = the source's own parts.
            seed: of what is left to chance.

        Returns:
            The images that take part, each in its part, in the order given; the others are left out.

        Raises:
            DataError: if the images cannot be divided like this.
        """
