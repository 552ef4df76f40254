"""Balanced and inverted test sets: sub-samples in which the artefact no longer helps, or misleads (theory §8)."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from ..batch import UNKNOWN_FLAG
from .counts import check_flags


def balanced_subset(labels: Tensor, flags: Tensor, seed: int = 0) -> Tensor:
    """Choose images among which artefact and label are independent: every group (y, s) of one size.

    Args:
        labels: class of the image ``[N]``.
        flags: ``[N]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = never chosen.
        seed: of the draw within groups; equal seeds choose equal images.

    Returns:
        Positions of the chosen images, int64, increasing: as many as possible.

    Raises:
        ValueError: for other shapes or flags, or a group without images.

    Source: Mueller & Berens 2026 (balanced test set); theory §8.

    Example:
        >>> balanced_subset(torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 0, 1, 1])).shape
        torch.Size([4])
    """
    groups = _groups(labels, flags)
    smallest = min(len(members) for members in groups.values())
    return _draw(groups, dict.fromkeys(groups, smallest), seed)


def inverted_subset(labels: Tensor, flags: Tensor, seed: int = 0) -> Tensor:
    r"""Choose images among which artefact and label correlate as strongly the other way round.

    The groups (y, s) get the sizes :math:`⌊c \, n_{y,1-s}⌋` with the largest c that fits: the prevalence of labels
    stays, and the correlation changes its sign (up to rounding).

    Args:
        labels: class of the image ``[N]``.
        flags: ``[N]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = never chosen.
        seed: of the draw within groups; equal seeds choose equal images.

    Returns:
        Positions of the chosen images, int64, increasing: as many as possible. Few, if the correlation is strong.

    Raises:
        ValueError: for other shapes or flags, a group without images, or too few images to invert.

    Source: Mueller & Berens 2026 (inverted test set); theory §8.

    Example:
        >>> labels, flags = torch.tensor([0] * 12 + [1] * 12), torch.tensor([0] * 8 + [1] * 4 + [1] * 8 + [0] * 4)
        >>> chosen = inverted_subset(labels, flags)
        >>> [int((flags[chosen][labels[chosen] == y]).sum()) for y in (0, 1)], len(chosen)  # of 6 each
        ([4, 2], 12)
    """
    groups = _groups(labels, flags)
    sizes = {key: len(members) for key, members in groups.items()}
    scale = min(Fraction(sizes[y, s], sizes[y, 1 - s]) for y, s in sizes)
    wanted = {(y, s): int(scale * sizes[y, 1 - s]) for y, s in sizes}
    if min(wanted.values()) == 0:
        raise ValueError(
            f"groups (y, s) of {sizes} images are too unequal to invert; gather images of the smallest ones, or use "
            "balanced_subset"
        )
    return _draw(groups, wanted, seed)


def _groups(labels: Tensor, flags: Tensor) -> dict[tuple[int, int], Tensor]:
    """Positions of the images of each group (y, s); every label seen must come with and without the artefact."""
    if labels.ndim != 1:
        raise ValueError(f"labels must be [N], got {list(labels.shape)}")
    check_flags(flags, labels)
    labels, flags = labels.cpu(), flags.cpu()
    seen = sorted(set(labels[flags != UNKNOWN_FLAG].tolist()))
    groups = {(y, s): torch.nonzero((labels == y) & (flags == s)).flatten() for y in seen for s in (0, 1)}
    if empty := [key for key, members in groups.items() if not len(members)]:
        y, s = empty[0]
        raise ValueError(
            f"no image of class {y} {'shows' if s else 'is free of'} the artefact; without one, artefact and "
            "label cannot be told apart"
        )
    if not groups:
        raise ValueError("no image has a known artefact flag")
    return groups


def _draw(groups: dict[tuple[int, int], Tensor], sizes: dict[tuple[int, int], int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = [
        members[torch.randperm(len(members), generator=generator)[: sizes[key]]] for key, members in groups.items()
    ]
    return torch.cat(chosen).sort().values
