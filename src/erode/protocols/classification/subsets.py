"""Which images a small-data experiment labels, and the subgroups in which it is judged."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...batch import UNKNOWN_FLAG
from ...datamodules import MaskDataModule
from ...datamodules.case import Case, Part

SIZES = ("small", "medium", "large")


def nested_order(ids: Sequence[str], strata: Sequence[Hashable], seed: int) -> list[str]:
    """An order of which every beginning holds each stratum in proportion: fractions of one seed are nested.

    Args:
        ids: ``[N]`` unique names.
        strata: ``[N]``, such as (class, artefact flag).
        seed: of the order within strata.

    Example:
        >>> order = nested_order([f"i{n}" for n in range(8)], ["a", "b"] * 4, seed=0)
        >>> sorted(int(name[1:]) % 2 for name in order[:4])
        [0, 0, 1, 1]
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    members: dict[Hashable, list[str]] = {}
    for name, stratum in sorted(zip(ids, strata, strict=True), key=lambda pair: pair[0]):
        members.setdefault(stratum, []).append(name)
    places: list[tuple[float, str]] = []
    for group in members.values():
        shuffled = [group[i] for i in generator.permutation(len(group))]
        places += [((rank + 0.5) / len(group), name) for rank, name in enumerate(shuffled)]
    return [name for _, name in sorted(places)]


def fine_cases(data: MaskDataModule) -> list[Case]:
    """Training images that have a fine mask, in order; the others take no part."""
    return [case for case in data.part("train") if "coarse" not in case.paths or "mask" in case.paths]


def labelled_ids(data: MaskDataModule, fraction: float, seed: int) -> list[str]:
    """The finely annotated training images that a fraction keeps, stratified by class and artefact flag.

    Raises:
        ValueError: if the fraction is out of range or leaves a class without images.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"a fraction of the training images lies between 0 and 1, 1 included, got {fraction}")
    cases = fine_cases(data)
    strata = [(case.label, case.flags.get(data.flag, UNKNOWN_FLAG)) for case in cases]
    chosen = nested_order([case.id for case in cases], strata, seed)[: round(fraction * len(cases))]
    label = {case.id: case.label for case in cases}
    if absent := {*label.values()} - {label[name] for name in chosen}:
        raise ValueError(
            f"{fraction} of {len(cases)} training images leave none of class {min(absent)}; raise the fraction"
        )
    return chosen


def lesion_sizes(data: MaskDataModule, part: Part) -> Tensor:
    """Foreground of the fine mask of each image of a part, int64 ``[N]``, in pixels."""
    dataset = data.dataset(part).untransformed()
    return torch.stack([(dataset[index]["mask"] > 0).sum() for index in range(len(dataset))])


def subgroups(cases: Sequence[Case], sizes: Tensor, edges: Tensor) -> dict[str, Tensor]:
    """Who belongs to which subgroup, bool ``[N]`` by name: all, each artefact with and without it, lesion sizes.

    Args:
        cases: the images.
        sizes: of their lesions, ``[N]`` in pixels; 0 = no lesion, in none of the size groups but ``all``.
        edges: the two sizes between small, medium and large.
    """
    members = {"all": torch.ones(len(cases), dtype=torch.bool)}
    for name in sorted({name for case in cases for name in case.flags}):
        flags = torch.tensor([case.flags.get(name, UNKNOWN_FLAG) for case in cases])
        if bool((flags == 1).any()):
            shown = "artefact" if name == "any" else name
            members |= {"any artefact" if name == "any" else name: flags == 1, f"no {shown}": flags == 0}
    group = torch.bucketize(sizes.double(), edges.double())
    return members | {f"{name} lesions": (group == k) & (sizes > 0) for k, name in enumerate(SIZES)}
