"""Part of another DataModule's training images, some of them with other masks: small data and pseudo-masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..masks import View, image_class
from .base import MaskDataModule
from .case import Arrays, Case
from .dataset import MaskDataset


class LabelledSubset(MaskDataModule):
    """Serves chosen training images of a DataModule of ours with fine or given masks, and all of its other parts.

    Args:
        data: where the images come from; its batches, flips and transform are used.
        labelled: ids of training images that keep their fine masks.
        pseudo: masks ``[*spatial]`` of one class by id of further training images. They replace whatever masks and
            classes these images have: an image without pseudo-lesion counts as one without pathology.

    Raises:
        ValueError: for ids that the training part lacks, or that are in both, and for masks of several classes.

    Example:
        >>> from erode.datamodules import SyntheticDermoscopy
        >>> data = SyntheticDermoscopy(train_images=16)
        >>> len(LabelledSubset(data, ["train-00000", "train-00003"]).dataset("train"))
        2
    """

    def __init__(
        self,
        data: MaskDataModule,
        labelled: Collection[str],
        pseudo: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> None:
        super().__init__(
            coarsening=data.coarsening,
            view=View.FINE,
            single_class=data.single_class,
            validate_data=False,
            batch_size=data.batch_size,
            class_balance=data.class_balance,
            flips=data.flips,
            transform=data.transform,
            cache=data.cache,
            num_workers=data.num_workers,
        )
        self.data = data
        self.flag = data.flag  # of an overlay, where the data have one: they paint it
        self.labelled = frozenset(labelled)
        self.pseudo = dict(pseudo or {})
        self._originals = {case.id: case for case in data.part("train")}
        if unknown := sorted({*self.labelled, *self.pseudo} - self._originals.keys()):
            raise ValueError(f"{unknown[0]} and {len(unknown) - 1} other ids are no training images of the data")
        if both := sorted(self.labelled & self.pseudo.keys()):
            raise ValueError(f"{both[0]} has a mask already; give pseudo-masks to other images than the labelled ones")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, background first."""
        return self.data.class_names

    def cases(self) -> list[Case]:
        """The chosen training images and all others."""
        cases = []
        for case in self._originals.values():
            if case.id in self.labelled:
                cases.append(case)
            elif case.id in self.pseudo:
                cases.append(replace(case, label=image_class(self.pseudo[case.id])))
        return [*cases, *self.data.part("val"), *self.data.part("test")]

    def prepare_data(self) -> None:
        """Read every file once and report every problem."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Nothing: all of its training images are labelled, so there is no split to draw."""

    def serve(self, view: View | str, *, forget: bool = False) -> None:
        """Fine labels are the only ones it has.

        Raises:
            ValueError: for any other view.
        """
        if View(view) is not View.FINE or forget:
            raise ValueError(f"a LabelledSubset serves fine masks alone, not the view '{view}'; unlearn on its data")

    def read(self, case: Case) -> Arrays:
        """The pixels of one case, with its pseudo-mask where there is one."""
        if case.id not in self.pseudo:
            return self.data.pixels(case)
        arrays = self.data.pixels(self._originals[case.id])  # generated images are painted by their true class
        return replace(arrays, mask=self.pseudo[case.id], coarse=None)

    def _make_training(self, view: View) -> MaskDataset:
        cases = self.part("train")
        return self._serving(cases, View.FINE, frozenset(case.id for case in cases), self.transform)
