"""What the models say on training images: on the atoms that are to be forgotten, and on the fine masks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..audit.forget_atoms import ForgetAtoms
from ..datamodules import MaskDataModule
from ..metrics import Completeness, ProbabilityDistance, SegmentationDice, ZeroRetrainForgetting
from .values import Subject, Values, plain

ATOMS = ("forget", "ring")
"""Which atoms: all coarse-foreground pixels of images without a fine mask, and those outside of the true outline."""


def forget_set_values(
    data: MaskDataModule, subjects: Sequence[Subject], reference: Subject, fresh: LightningModule, device: torch.device
) -> dict[str, Values]:
    """Measures on the images that are to be forgotten, by subject.

    ``*_original_label``: share of the atoms on which the prediction still is the original label; ``forget_dice``:
    lesion Dice against the coarse masks; ``*_js`` [nats] and ``*_activation``: distance of probabilities from the
    reference; ``forget_completeness``: overlap with the reference's masks (neither of the reference itself);
    ``forget_zrf``: see :class:`~erode.metrics.ZeroRetrainForgetting`. Where no fine mask tells, there is no ring.

    Args:
        data: with the split.
        subjects: the models.
        reference: retrained without the forget set; distances are measured from it.
        fresh: an untrained network, for ZRF.
        device: of the models.
    """
    coarse = frozenset(data.split.coarse)
    cases = [case for case in data.part("train") if case.id in coarse]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ZRF rewards random answers")  # the table says so
        passes = {subject.name: _ForgetPass(data.num_classes, subject is reference) for subject in subjects}
    for batch in DataLoader(ForgetAtoms(cases, len(cases), data), data.batch_size, num_workers=data.num_workers):
        image = batch["image"].to(device)
        expected, untrained = probabilities(reference.network, image), probabilities(fresh, image)
        for subject in subjects:
            passes[subject.name].update(probabilities(subject.network, image), expected, untrained, batch)
    return {name: found.compute() for name, found in passes.items()}


def fine_set_values(data: MaskDataModule, subjects: Sequence[Subject], device: torch.device) -> dict[str, Values]:
    """``fine_dice``: lesion Dice on the training images with fine masks, which every model may have learnt."""
    metrics = {subject.name: SegmentationDice(data.num_classes) for subject in subjects}
    for batch in DataLoader(data.fine_data(), data.batch_size, num_workers=data.num_workers):
        image = batch["image"].to(device)
        for subject in subjects:
            metrics[subject.name].update(probabilities(subject.network, image).argmax(1), batch["mask"])
    return {name: {"fine_dice": float(metric.compute()["lesion"])} for name, metric in metrics.items()}


def probabilities(network: LightningModule, image: Tensor) -> Tensor:
    """Softmax ``[B, K, *spatial]`` on the CPU, of images on the network's device."""
    with torch.inference_mode():
        softmax: Tensor = network(image).float().softmax(1).cpu()
    return softmax


class _ForgetPass:
    """The metrics of one model over the forget set."""

    def __init__(self, num_classes: int, is_reference: bool) -> None:
        self._is_reference = is_reference
        self._agreeing = dict.fromkeys(ATOMS, 0)
        self._atoms = dict.fromkeys(ATOMS, 0)
        self._distance = {name: ProbabilityDistance() for name in ATOMS}
        self._completeness = Completeness(num_classes)
        self._dice = SegmentationDice(num_classes)
        self._zrf = ZeroRetrainForgetting()

    def update(self, probs: Tensor, expected: Tensor, untrained: Tensor, batch: dict[str, Tensor]) -> None:
        """Add a batch of forget images."""
        prediction = probs.argmax(1)
        for name in ATOMS:
            where = batch[name]
            self._agreeing[name] += int((prediction == batch["mask"])[where].sum())
            self._atoms[name] += int(where.sum())
            self._distance[name].update(probs, expected, where)
        self._completeness.update(prediction, expected.argmax(1))
        self._dice.update(prediction, batch["mask"])
        self._zrf.update(probs, untrained, batch["forget"])

    def compute(self) -> Values:
        """All of them."""
        values: Values = {"forget_dice": float(self._dice.compute()["lesion"])}
        for name in ATOMS:
            atoms = self._atoms[name]
            values[f"{name}_original_label"] = self._agreeing[name] / atoms if atoms else float("nan")
            if atoms and not self._is_reference:
                values |= plain(f"{name}_", self._distance[name].compute())
        if not self._is_reference:
            values["forget_completeness"] = float(self._completeness.compute()["lesion"])
        return values | plain("forget_", self._zrf.compute())
