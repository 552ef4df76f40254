"""The DataModule that every data source of ours is: subclasses only say which cases there are and read them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Sampler

from ..masks import Coarsening, DiskDilation, ForgetSplit, PositionPrior, View
from ..object_settings import settings_of
from .augmentation import random_flips
from .case import Arrays, Case, Part
from .dataset import Item, MaskDataset
from .files.contents import digest_of_cases
from .files.validation import validate_cases
from .loading import forget_sampler, loader, training_sampler
from .overlay import OVERLAY_FLAG, Overlay
from .parts.splitting import labels_in_words, make_split, only_coarse, read_split
from .randomness import random_parts


class MaskDataModule(LightningDataModule, ABC):
    """Emits coarse, fine or retained labels of one data set for training; always fine ones for evaluation.

    Subclasses implement :meth:`cases` (which images there are; cheap, no pixels), :meth:`read` (the pixels of
    one) and :attr:`class_names`. Batches follow :mod:`erode.batch`. ``Case.flags`` holds artefact flags only.

    Args:
        coarsening: makes the coarse masks of cases that bring none; None = a disk of half-width 8 pixels.
        view: labels that training sees: ``coarse`` (all images coarse: the model to unlearn from), ``fine``
            (all images fine: the oracle), ``fine_subset`` (only the finely annotated images), ``retain``
            (the retain view, theory §2).
        fine_fraction: part of the training images whose fine mask may be used, between 0 and 1, both excluded;
            without effect where some images have only a coarse mask, for then those are the forget side.
        split_seed: seed of the forget/retain split.
        split_file: a forget/retain split to read instead of drawing one.
        position_prior: give inside pixels of the retain view the soft target of theory §2, term 3.
        flag: name of the artefact flag that robust metrics and the stratified split use.
        single_class: refuse images with two foreground classes (theory §1).
        validate_data: read every file once before anything else and report all problems together.
        batch_size: images per batch and device.
        class_balance: how far rare classes are drawn more often in training: class k of n_k images is drawn in
            proportion to ``n_k^(1 - class_balance)``; 0 = as they come, 1 = all equally often.
        flips: mirror training images at random along each axis.
        transform: a MONAI dictionary transform for training items, random by the run's seed; keys in
            ``datamodules.dataset.PIXEL_KEYS``.
        overlay: paint known artefacts on the images of all parts; ``flag`` and the artefact masks then speak of
            them, and of nothing else.
        cache: keep images in memory once they are read.
        num_workers: loader processes; of effect on numbers only where a transform is random, for each draws its own.

    Raises:
        DataError: from :meth:`prepare_data`, naming each file that cannot be used and the remedy.
    """

    def __init__(
        self,
        *,
        coarsening: Coarsening | None = None,
        view: View | str = View.COARSE,
        fine_fraction: float = 0.1,
        split_seed: int = 0,
        split_file: str | Path | None = None,
        position_prior: bool = True,
        flag: str = "any",
        single_class: bool = True,
        validate_data: bool = True,
        batch_size: int = 16,
        class_balance: float = 0.0,
        flips: bool = True,
        transform: Callable[[Item], Item] | None = None,
        overlay: Overlay | None = None,
        cache: bool = True,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.coarsening = coarsening if coarsening is not None else DiskDilation(half_width=8)
        self.view = View(view)
        self.fine_fraction = fine_fraction
        self.split_seed = split_seed
        self.split_file = None if split_file is None else Path(split_file)
        self.position_prior = position_prior
        if overlay is not None and flag not in ("any", OVERLAY_FLAG):
            raise ValueError(f"with an overlay the flag is {OVERLAY_FLAG!r}, not {flag!r}: leave flag or overlay out")
        if overlay is None and flag == OVERLAY_FLAG:
            raise ValueError(f"flag {OVERLAY_FLAG!r} needs an overlay: set overlay, or choose another flag")
        self.flag = flag if overlay is None else OVERLAY_FLAG
        self.overlay = overlay
        self.single_class = single_class
        self.validate_data = validate_data
        self.batch_size = batch_size
        if not 0 <= class_balance <= 1:
            raise ValueError(f"class_balance must lie between 0 (as they come) and 1 (equal), got {class_balance}")
        self.class_balance = class_balance
        self.flips = flips
        self.transform = transform
        self._transform_settings = settings_of(transform)
        self.cache = cache
        self.num_workers = num_workers
        self._cases: list[Case] | None = None
        self._split: ForgetSplit | None = None
        self._prior: PositionPrior | None = None
        self._datasets: dict[str, MaskDataset] = {}
        self._arrays: dict[str, Arrays] = {}
        self._forget_beside = False
        self._as_they_are = False

    # What a subclass says ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes, background first."""

    @abstractmethod
    def cases(self) -> list[Case]:
        """All images of all parts, without reading a pixel."""

    @abstractmethod
    def read(self, case: Case) -> Arrays:
        """Read the pixels of one case."""

    # What everyone gets --------------------------------------------------------------------------------------

    def pixels(self, case: Case) -> Arrays:
        """The pixels of one case as training and metrics see them: read, and painted where there is an overlay.

        They outlive a change of view, which makes another data set of them, unless ``cache`` is off.
        """
        if case.id in self._arrays:
            return self._arrays[case.id]
        arrays = self.read(case)
        if self.overlay is not None:
            arrays = self.overlay.paint(case, arrays)
        if self.cache:
            self._arrays[case.id] = arrays
        return arrays

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    def part(self, part: Part) -> list[Case]:
        """The cases of one part, in order."""
        return [case for case in self._all_cases() if case.part == part]

    @property
    def split(self) -> ForgetSplit:
        """The forget/retain split of the training images."""
        if self._split is None:
            cases = self.part("train")
            if self.split_file is not None:
                self._split = read_split(self.split_file, cases, self.coarsening)
            else:
                self._split = make_split(cases, self.coarsening, self.flag, self.fine_fraction, self.split_seed)
        return self._split

    @property
    def prior(self) -> PositionPrior:
        """The position prior, fitted on the finely annotated images alone."""
        if self._prior is None:
            fine = frozenset(self.split.fine)
            arrays = [self.pixels(case) for case in self.part("train") if case.id in fine]
            pairs = [
                (a.mask, self.coarsening(a.mask) if a.coarse is None else a.coarse)
                for a in arrays
                if a.mask is not None
            ]
            self._prior = PositionPrior.fit(pairs, self.coarsening)
        return self._prior

    def is_positive(self, case: Case) -> bool | None:
        """Whether a case shows what image-level scores rank: by default the last class; None where unknown."""
        return case.label == self.num_classes - 1

    def serve(self, view: View | str, *, forget: bool = False) -> None:
        """Serve other labels for training from the next loader on; operators call it before a run.

        Args:
            view: labels that training sees.
            forget: serve ``{"retain": batch, "forget": batch}``: beside the view, coarse labels whose forget atoms
                have the role FORGET, for operators that push them away.
        """
        self.view = View(view)
        self._forget_beside = forget
        self._drop_training_data()

    def serve_as_they_are(self, as_they_are: bool = True) -> None:
        """Serve each training image once an epoch and by itself, for training that counts on it.

        No mirror images, no position prior (it is fitted on other images), and the last batch even if incomplete.

        Args:
            as_they_are: False = as usual again.
        """
        self._as_they_are = as_they_are
        self._drop_training_data()

    def on_exception(self, exception: BaseException) -> None:
        """Serve as usual again after a run that broke off."""
        self.serve_as_they_are(False)

    def redraw_split(self, split_seed: int) -> None:
        """Draw another forget/retain split; what was fitted on the old one is dropped.

        Raises:
            ValueError: where the split comes from a file.
        """
        if self.split_file is not None:
            raise ValueError(f"the split comes from {self.split_file}; leave split_file out to draw splits by seed")
        self.split_seed = split_seed
        self._split = self._prior = None
        self._drop_training_data()

    def recoarsen(self, coarsening: Coarsening) -> None:
        """Make coarse masks in another way from the next loader on; what was made of the old ones is dropped.

        Raises:
            ValueError: where masks or split come from files, which belong to one coarsening.
        """
        if self.split_file is not None or any("coarse" in case.paths for case in self._all_cases()):
            raise ValueError(
                "coarse masks can be made anew only where all are made of fine ones and the split is drawn; leave out "
                "files of coarse masks and split_file"
            )
        self.coarsening = coarsening
        self._split = self._prior = None
        self._datasets.clear()

    def describe(self) -> dict[str, Any]:
        """What determines the data and how it is served, as plain values, for records and digests.

        All files are read, once per process, and the pixels of up to 16 cases decoded.
        """
        cases = self._all_cases()
        pixels = hashlib.sha256()
        for case in cases[:: math.ceil(len(cases) / 16) or 1]:
            for name, array in vars(self.pixels(case)).items():
                pixels.update(f"{name} {None if array is None else array.shape}".encode())
                pixels.update(b"" if array is None else array.tobytes())
        return {
            "class": type(self).__name__,
            "cases": digest_of_cases(cases),
            "pixels": pixels.hexdigest(),
            "coarsening": self.coarsening.describe(),
            "fine_fraction": self.fine_fraction,
            "position_prior": self.position_prior,
            "flag": self.flag,
            "class_balance": self.class_balance,
            "batch_size": self.batch_size,
            "flips": self.flips,
            "transform": self._transform_settings,
            **({"num_workers": self.num_workers} if self.num_workers and random_parts(self.transform) else {}),
            **({} if self.overlay is None else {"overlay": self.overlay.describe()}),
            **({} if self.split_file is None else {"split": self.split.digest}),
        }

    def prepare_data(self) -> None:
        """Read everything once and report every problem, before any training starts."""
        if self.validate_data:
            cases = self._all_cases()
            coarse = only_coarse(cases) if self.split_file is None else ForgetSplit.load(self.split_file).coarse
            validate_cases(cases, self.pixels, self.num_classes, single_class=self.single_class, coarse_only={*coarse})
            self.validate_data = False

    def setup(self, stage: str | None = None) -> None:
        """Draw or read the split, and say how coarse masks come about; nothing is read from images yet."""
        if stage in (None, "fit"):
            said = labels_in_words(self.part("train"), self.split, self.coarsening)
            rank_zero_info(f"{type(self).__name__}: {said}")

    def train_dataloader(self) -> DataLoader[Item] | dict[str, DataLoader[Item]]:
        """Shuffled batches under the current view; the last incomplete batch is dropped, as a rule."""
        dataset = self.dataset("train")
        sampler = training_sampler(dataset, self.class_balance)
        retain = self._loader(dataset, sampler, drop_last=not self._as_they_are and len(dataset) > self.batch_size)
        if not self._forget_beside:
            return retain
        forget = self._named("forget", lambda: self._make_training(View.COARSE))
        return {
            "retain": retain,
            "forget": self._loader(forget, forget_sampler(forget), drop_last=len(forget) > self.batch_size),
        }

    def forget_data(self) -> tuple[MaskDataset, MaskDataset]:
        """Images of C with their forget atoms, and validation images that play the same part but trained nothing.

        Both are served as the coarse view serves C: every coarse-foreground pixel has the role FORGET.
        """
        coarse = frozenset(self.split.coarse)
        forgotten = [case for case in self.part("train") if case.id in coarse]
        return (
            self._named("forgotten", lambda: self._serving(forgotten, View.COARSE, frozenset())),
            self._named("held out", lambda: self._serving(self.part("val"), View.COARSE, frozenset())),
        )

    def fine_data(self) -> MaskDataset:
        """Training images with fine masks, without augmentation: what every model may have learnt."""
        fine = frozenset(self.split.fine)
        cases = [case for case in self.part("train") if case.id in fine]
        return self._named("finely annotated", lambda: self._serving(cases, View.FINE, fine))

    def val_dataloader(self) -> DataLoader[Item]:
        """Validation images with fine masks."""
        return self._loader(self.dataset("val"))

    def test_dataloader(self) -> DataLoader[Item]:
        """Test images with fine masks."""
        return self._loader(self.dataset("test"))

    def predict_dataloader(self) -> DataLoader[Item]:
        """The test images."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Item, dataloader_idx: int) -> Item:
        """Mirror training batches on the device."""
        training = self.trainer is not None and self.trainer.training
        if not (self.flips and training) or self._as_they_are:
            return batch
        if "image" in batch:
            return random_flips(batch)
        return {name: random_flips(part) for name, part in batch.items()}

    def dataset(self, part: Part) -> MaskDataset:
        """One part of the data as a map-style dataset; training follows :attr:`view`, the others are fine."""
        return self._named(part, lambda: self._make_dataset(part))

    def _named(self, name: str, make: Callable[[], MaskDataset]) -> MaskDataset:
        if name not in self._datasets:
            self._datasets[name] = make()
        return self._datasets[name]

    def _drop_training_data(self) -> None:
        for name in ("train", "forget", "forgotten", "finely annotated"):
            self._datasets.pop(name, None)

    def _all_cases(self) -> list[Case]:
        if self._cases is None:
            cases = self.cases()
            if self.overlay is not None:
                self.overlay = self.overlay.completed(cases, self.class_names)
                cases = self.overlay.flag(cases, self.class_names)
            self._cases = cases
        return self._cases

    def _make_dataset(self, part: Part) -> MaskDataset:
        if part == "train":
            return self._make_training(self.view)
        cases = self.part(part)
        return self._serving(cases, View.FINE, frozenset(case.id for case in cases))

    def _make_training(self, view: View) -> MaskDataset:
        fine = frozenset(self.split.fine)
        cases = [case for case in self.part("train") if view.serves(case.id in fine)]
        return self._serving(cases, view, fine, self.transform)

    def _serving(
        self,
        cases: list[Case],
        view: View,
        fine: frozenset[str],
        transform: Callable[[Item], Item] | None = None,
    ) -> MaskDataset:
        return MaskDataset(
            cases,
            self.pixels,
            self.coarsening,
            view,
            fine_ids=fine,
            prior=self.prior if view is View.RETAIN and self.position_prior and not self._as_they_are else None,
            flag=self.flag,
            cache=self.cache,
            transform=transform,
        )

    def _loader(
        self, dataset: MaskDataset, sampler: Sampler[int] | None = None, drop_last: bool = False
    ) -> DataLoader[Item]:
        return loader(dataset, self.batch_size, self.num_workers, sampler, drop_last)
