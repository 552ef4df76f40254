"""Images that come in clusters, such as those of a patient: kept beside the images, joined before anything is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

ALONE = -1
"""Cluster of an image that belongs with no other."""


def kept_clusters(cluster: Tensor | None, images: Tensor) -> Tensor:
    """What a metric keeps of the clusters of a batch.

    Args:
        cluster: integer ``[B]``, 0 or more, or ``ALONE``; None = each image alone.
        images: anything ``[B, ...]`` of the same images.

    Returns:
        int64 ``[B]``.

    Raises:
        ValueError: for other shapes, dtypes or numbers.

    Example:
        >>> kept_clusters(None, torch.zeros(2, 3))
        tensor([-1, -1])
    """
    if cluster is None:
        return torch.full((len(images),), ALONE, device=images.device)
    if cluster.shape != images.shape[:1] or cluster.is_floating_point() or bool((cluster < ALONE).any()):
        raise ValueError(
            f"cluster must be integers [{len(images)}] of 0 or more, one per image, or {ALONE} for an image alone; "
            f"got {cluster.dtype} {list(cluster.shape)}, {cluster.tolist()}"
        )
    return cluster.long()


def numbered(clusters: Tensor) -> Tensor:
    """Clusters numbered 0, 1, …, each image that is alone as one of its own.

    Args:
        clusters: ``[N]`` from `kept_clusters`.

    Returns:
        int64 ``[N]``, those of several images first.

    Example:
        >>> numbered(torch.tensor([7, ALONE, 3, 7, ALONE]))
        tensor([1, 2, 0, 1, 3])
    """
    alone = clusters == ALONE
    names, member = torch.unique(clusters[~alone], return_inverse=True)
    numbers = torch.empty_like(clusters)
    numbers[~alone] = member
    numbers[alone] = torch.arange(len(names), len(names) + int(alone.sum()), device=clusters.device)
    return numbers


def first_places(numbers: Tensor) -> Tensor:
    """Where each cluster begins.

    Args:
        numbers: ``[N]`` of 0 to C - 1, all of them.

    Returns:
        int64 ``[C]``.

    Example:
        >>> first_places(torch.tensor([1, 0, 1, 0]))
        tensor([1, 0])
    """
    places = torch.arange(len(numbers), device=numbers.device)
    return torch.full_like(torch.unique(numbers), len(numbers)).scatter_reduce(0, numbers, places, "amin")


def joined(rows: Tensor, numbers: Tensor) -> Tensor:
    """Sum of the rows of each cluster, in the order in which clusters begin.

    Args:
        rows: ``[N, M]``.
        numbers: ``[N]`` integers, the same for rows that belong together.

    Returns:
        ``[C, M]``; the rows themselves where each is alone.

    Example:
        >>> joined(torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([9, 4, 9]))
        tensor([[6, 8],
                [3, 4]])
    """
    names, member = torch.unique(numbers, return_inverse=True)
    sums = torch.zeros(len(names), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, member, rows)
    return sums[first_places(member).argsort()]
