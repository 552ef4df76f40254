"""The forget atoms of training images, beside the same kind of atoms of images that were never trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..batch import Role
from ..datamodules import MaskDataModule
from ..datamodules.case import Case
from ..masks import View, ring, serve
from ..metrics import Attack, MembershipInference


def comparable_cases(
    data: MaskDataModule, held_out: Literal["val", "test"], seed: int
) -> tuple[list[Case], list[Case]]:
    """Images with forget atoms, and held-out images with the same shares of classes.

    Args:
        data: the data.
        held_out: part with the non-members.
        seed: of the draw, where a class has more held-out images than its share.

    Returns:
        Members without the classes that no held-out image has; non-members.

    Raises:
        ValueError: if no class is on both sides, or some coarse masks are drawn and others derived.
    """
    coarse = set(data.split.coarse)
    members = [case for case in data.part("train") if case.id in coarse]
    others = data.part(held_out)
    wanted, there = (Counter(case.label for case in side) for side in (members, others))
    shared = sorted(wanted.keys() & there.keys() - {0})
    if not shared:
        raise ValueError(
            f"no foreground class has both coarsely annotated training images and images in {held_out}; "
            "use the other part, or another split"
        )
    derived = [case.id for case in (*members, *others) if "coarse" not in case.paths]
    if 0 < len(derived) < len(members) + len(others):
        raise ValueError(
            f"{len(derived)} of {len(members) + len(others)} coarsely annotated training images and images in "
            f"{held_out} have no coarse mask file, e.g. {derived[0]}: derived masks would differ in kind "
            "from those that were drawn; draw coarse masks for them too, or derive all (leave coarse_masks out)"
        )
    scale = min(there[label] / wanted[label] for label in shared)
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen: set[str] = set()
    for label in shared:
        names = sorted(case.id for case in others if case.label == label)
        count = min(len(names), max(1, round(scale * wanted[label])))
        chosen |= {names[index] for index in generator.permutation(len(names))[:count]}
    return [case for case in members if case.label in shared], [case for case in others if case.id in chosen]


class ForgetAtoms(Dataset[dict[str, Any]]):
    """Images with their forget atoms, all treated as coarsely annotated (theory §1).

    Args:
        cases: members, then non-members.
        members: how many are members.
        data: reads and coarsens them.
    """

    def __init__(self, cases: Sequence[Case], members: int, data: MaskDataModule) -> None:
        self._cases, self._members = cases, members
        self._read, self._coarsening = data.pixels, data.coarsening
        numbers = _group_numbers(cases)
        self._clusters = [numbers[_group(case)] for case in cases]

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self._cases[index]
        arrays = self._read(case)
        fine, coarse = arrays.mask, arrays.coarse
        if coarse is None:
            assert fine is not None  # validated by the DataModule
            coarse = self._coarsening(fine)
        served = serve(View.COARSE, fine, coarse, case.label, is_fine=False)
        around = np.zeros(coarse.shape, np.bool_) if fine is None else ring(fine, coarse)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(arrays.image)),
            "mask": torch.from_numpy(served.mask),
            "forget": torch.from_numpy(served.role == Role.FORGET),
            "ring": torch.from_numpy(around),
            "member": torch.tensor(index < self._members),
            "index": torch.tensor(index),
            "label": torch.tensor(case.label),
            "cluster": torch.tensor(self._clusters[index]),
        }


def log_likelihood(network: nn.Module, image: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each pixel's label: minus its cross-entropy.

    Args:
        network: maps images ``[B, C, *spatial]`` to logits ``[B, K, *spatial]``.
        image: on the network's device.
        mask: labels ``[B, *spatial]``.

    Returns:
        float64 ``[B, *spatial]`` in nats, on the CPU.

    Raises:
        ValueError: for logits of another shape, or too few classes.

    Example:
        >>> log_likelihood(nn.Identity(), torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.long)).item()
        -0.6931471805599453
    """
    with torch.inference_mode():
        logits = network(image)
        expected = (len(image), *image.shape[2:])
        if logits.ndim != image.ndim or (len(logits), *logits.shape[2:]) != expected or logits.shape[1] <= mask.max():
            raise ValueError(
                f"the model gives {list(logits.shape)} for images {list(image.shape)} with labels up to "
                f"{int(mask.max())}; its forward pass must give one logit per pixel and class, background included"
            )
        # Single precision rounds the likelihoods of confident predictions to the same value, and an attack needs them.
        likelihood: Tensor = logits.cpu().double().log_softmax(1).gather(1, mask.cpu()[:, None])[:, 0]
        return likelihood


def loss_attack(data: MaskDataModule, network: nn.Module, seed: int = 0, bootstrap: int = 1) -> Attack | None:
    """Membership inference by a loss threshold, over images: does the coarse label's likelihood give members away?

    Non-members are validation images: they come from where training images come from, which a test part with another
    mix of artefacts does not.

    Args:
        data: with the forget/retain split that the network was trained on.
        network: maps images to logits; on any device, in evaluation mode.
        seed: of the choice of held-out images, and of resamples.
        bootstrap: resamples for the intervals; 1 where only the values are wanted.

    Returns:
        The attack over images, each scored by the mean log-likelihood of its forget atoms; intervals take the images of
        a group (patients) for one draw. None where the data have nothing to compare (:func:`comparable_cases`).

    Source:
        Yeom et al. 2018; theory §8.
    """
    try:
        compared = comparable_cases(data, "val", seed)
    except ValueError:
        return None
    metric = MembershipInference(bootstrap=bootstrap, seed=seed)
    device = next(network.parameters()).device
    chosen = {case.id for side in compared for case in side}
    sides = [
        (dataset, [place for place, case in enumerate(dataset.cases) if case.id in chosen])
        for dataset in data.forget_data()
    ]
    cases = [dataset.cases[place] for dataset, places in sides for place in places]
    groups = _group_numbers(cases)
    clusters = torch.tensor([groups[_group(case)] for case in cases])
    number = 0
    for member, (dataset, places) in zip((True, False), sides, strict=True):
        for batch in DataLoader(Subset(dataset, places), batch_size=data.batch_size, num_workers=data.num_workers):
            size = len(batch["mask"])
            metric.update(
                log_likelihood(network, batch["image"].to(device), batch["mask"]),
                batch["role"] == Role.FORGET,
                member=torch.full((size,), member),
                image=torch.arange(number, number + size),
                stratum=batch["label"],
                cluster=clusters[number : number + size],
            )
            number += size
    return metric.result().image


def _group_numbers(cases: Sequence[Case]) -> dict[str, int]:
    """A number for each group, in the order in which the cases name them."""
    return {group: number for number, group in enumerate(dict.fromkeys(_group(case) for case in cases))}


def _group(case: Case) -> str:
    return case.group or f"image {case.id}"
