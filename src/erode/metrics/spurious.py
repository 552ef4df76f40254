"""Global spurious mutual information (theory §7.1)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from ..batch import UNKNOWN_ARTEFACT
from .clusters import joined, kept_clusters, numbered
from .counts import (
    artefact_values,
    canonical_order,
    check_classes,
    check_shapes,
    code_dtype,
    count_cells,
    fuse,
    keep_counted,
)
from .gathering import RowsMetric
from .information import deviance_residuals, miller_madow_bias, root_interval, table_information


@dataclass(frozen=True)
class SpuriousInformation:
    """What `GlobalSpuriousInformation` found, float64, in nats per image.

    Args:
        value: 0-dim, S_global: the largest of ``per_class``.
        per_class: ``[num_classes - 1]``, one term per foreground class.
        argmax_class: the foreground class that attains the maximum.
        interval: lower and upper end for S_global; None without ``bootstrap``.
        null: ``[num_classes - 1]``, mean of each term with artefact maps shuffled across images; None without
            ``permutations``.
        p_value: share of shuffles (the observed order counted as one) with a maximum at least as large;
            None without ``permutations``.
    """

    value: Tensor
    per_class: Tensor
    argmax_class: int
    interval: tuple[float, float] | None = None
    null: Tensor | None = None
    p_value: float | None = None


def pooled_information(tables: Tensor, images: Tensor | float) -> Tensor:
    r"""One table per class over all positions, times the grid: :math:`|Λ| P(Z=k) I(S;Y|Z=k)`.

    With :math:`|Λ| P(Z=k) = n_k / N`, the mean number of annotated pixels called k per image, it also holds
    where images differ in size.

    Args:
        tables: pixel counts ``[..., K, S, Y]``, one table per foreground class.
        images: number of images N.

    Returns:
        float64 ``[..., K]`` in nats per image.

    Example:
        >>> pooled_information(torch.tensor([[[40, 0], [0, 40]]]), images=10)  # 8 pixels of ln 2 each
        tensor([5.5452], dtype=torch.float64)
    """
    return table_information(tables) / images


def pixelwise_information(codes: Tensor, num_classes: int, num_artefact_values: int) -> Tensor:
    r"""One table per class and position, each corrected by Miller-Madow, summed over positions.

    .. math:: Σ_{ij} \frac{1}{N_{ij}} \Big( n_{k,ij} \hat I_{ij} - \frac{m_{sy} - m_s - m_y + 1}{2} \Big)

    with m the numbers of non-empty cells, rows and columns (`miller_madow_bias`).

    Args:
        codes: fused (Z, S, Y) cells ``[N, pixels]``; S counts from 1, 0 = not annotated.
        num_classes: number of classes, background included.
        num_artefact_values: number of values S may take.

    Returns:
        float64 ``[num_classes - 1]`` in nats per image; may be negative.

    Example:
        >>> pixelwise_information(fuse(*[(torch.tensor([[1], [0]]), n) for n in (2, 3, 2)]), 2, 2)
        tensor([0.], dtype=torch.float64)
    """
    shape = (num_classes, num_artefact_values + 1, num_classes)
    tables = count_cells(codes, shape[0] * shape[1] * shape[2], by="pixel").view(-1, *shape)[:, :, 1:]
    images = tables.sum((1, 2, 3)).clamp(min=1)
    foreground = tables[:, 1:]
    return ((table_information(foreground) - miller_madow_bias(foreground)) / images[:, None]).sum(0)


def bootstrap_residuals(tables: Tensor, resamples: int, seed: int, sizes: Tensor | None = None) -> Tensor:
    """Deviance residuals of the mean table over images, or clusters of them, drawn with replacement.

    Args:
        tables: pixel counts per image or cluster ``[N, K, S, Y]``, in canonical order.
        resamples: number of resamples R.
        seed: of the draws.
        sizes: images of each cluster ``[N]``; None = one each.

    Returns:
        float64 ``[R, K, S·Y]``.

    Example:
        >>> bootstrap_residuals(torch.ones(5, 1, 2, 2), resamples=3, seed=0).shape
        torch.Size([3, 1, 4])
    """
    count = len(tables)
    sizes = torch.ones_like(tables[:, 0, 0, 0]) if sizes is None else sizes
    flat = torch.cat([tables.flatten(1), sizes[:, None]], dim=1).double()
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for _ in range(resamples):
        draw = torch.randint(count, (count,), generator=generator)
        # Counts are whole numbers far below 2**53: this product is exact, whatever the order of summation.
        sums.append(torch.bincount(draw, minlength=count).double().to(flat.device) @ flat)
    drawn = torch.stack(sums)
    means = drawn[:, :-1] / drawn[:, -1:]
    return deviance_residuals(means.view(-1, *tables.shape[1:])).flatten(2)


class GlobalSpuriousInformation(RowsMetric):
    r"""Information that positive predictions leave between artefact and truth, in nats (theory §7.1).

    .. math:: S(Z) = \max_{k ≥ 1} Σ_{ij} P(Z_{ij}=k) \, I(S_{ij}; Y_{ij} \mid Z_{ij}=k)

    It is 0 for an empty mask, for a perfect one, and for a model that fires only on the artefact: read it
    next to `SegmentationDice` and `SpuriousLeakage`.

    ``estimator="pooled"`` counts one table per class over all positions and takes the plug-in; without
    options the state is one sum-reduced integer table. ``"pixelwise"`` counts one table per position,
    subtracts Miller-Madow and the mean of the permutation null, so it needs ``permutations``; it takes no
    interval, because resampled images repeat and repeats bias tables of one pixel beyond repair.

    ``bootstrap`` adds an interval for the pooled information from resampled *images*, so pixels may depend on
    their neighbours, or from resampled clusters of images (patients) where `update` is told of them. It inverts
    tests on deviance residuals instead of taking percentiles, and so reaches 0 (`root_interval`).
    ``permutations`` shuffles whole artefact maps across images, against the null that
    artefacts know nothing of (Z, Y). Maps keep their positions, so what pooling makes of artefacts at the
    border and lesions in the centre stays in the null. It needs the maps themselves (a byte per pixel up to
    256 joint cells), images of one size, and images that are independent: clusters are not kept together.

    Pixels whose artefact is not annotated are left out one by one, from tables, |Λ| and P(Z=k); images
    without any annotated pixel are left out whole. Images may otherwise differ in size: |Λ| is the mean.
    A class never predicted scores 0 with the interval [0, 0]. No image at all gives NaN.

    Args:
        num_classes: number of classes, background included.
        estimator: "pooled" or "pixelwise".
        num_artefact_values: number of values S may take; types from this minus 1 up are merged, so 2 asks
            only whether there is an artefact.
        bootstrap: resamples of the images or clusters (1000 for 95 %); 0 = no interval.
        permutations: shuffles of the artefact maps; 0 = no null.
        confidence: of the interval.
        seed: of resamples and shuffles. Images are sorted by content first, so the result does not depend on
            the number of processes.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: for settings that do not go together.

    Example:
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.long)
        >>> mask[:, :2], artefact = 1, torch.zeros(1, 4, 4, dtype=torch.uint8)
        >>> artefact[:, 2:] = 1
        >>> metric = GlobalSpuriousInformation(num_classes=2)
        >>> metric.update(torch.ones_like(mask), mask, artefact)  # fires everywhere: 16 pixels of ln 2
        >>> metric.compute()
        tensor(11.0904, dtype=torch.float64)
        >>> metric.result().argmax_class
        1
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    counts: Tensor
    images: Tensor
    tables: list[Tensor]
    clusters: list[Tensor]
    codes: list[Tensor]
    grids: list[Tensor]

    def __init__(
        self,
        num_classes: int,
        estimator: Literal["pooled", "pixelwise"] = "pooled",
        num_artefact_values: int = 2,
        bootstrap: int = 0,
        permutations: int = 0,
        confidence: float = 0.95,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_classes < 2 or not 2 <= num_artefact_values <= UNKNOWN_ARTEFACT:
            raise ValueError(
                f"need num_classes >= 2 and 2 <= num_artefact_values <= {UNKNOWN_ARTEFACT}, "
                f"got {num_classes} and {num_artefact_values}"
            )
        if estimator not in ("pooled", "pixelwise"):
            raise ValueError(f"estimator must be 'pooled' or 'pixelwise', got {estimator!r}")
        if estimator == "pixelwise" and (permutations < 1 or bootstrap):
            raise ValueError(
                "estimator='pixelwise' is biased by about |Λ|/2N nats: set permutations (say 100) to "
                "subtract the null, and bootstrap=0; for an interval use estimator='pooled'"
            )
        if bootstrap < 0 or permutations < 0 or not 0 < confidence < 1:
            raise ValueError(
                "need bootstrap >= 0, permutations >= 0 and 0 < confidence < 1, "
                f"got {bootstrap}, {permutations} and {confidence}"
            )
        self.num_classes, self.num_artefact_values = num_classes, num_artefact_values
        self.estimator, self.bootstrap, self.permutations = estimator, bootstrap, permutations
        self.confidence, self.seed = confidence, seed
        self._result: SpuriousInformation | None = None
        table = torch.zeros(num_classes, num_artefact_values, num_classes, dtype=torch.int64)
        self.add_state("counts", table, dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_rows("tables", torch.int64, dimensions=4)
        self.add_rows("clusters", torch.int64)
        self.add_rows("codes", code_dtype(prod(self._shape)), dimensions=2)
        self.add_rows("grids", torch.int64, dimensions=2)

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Joint cells (Z, S, Y), with S = 0 for pixels that are not annotated."""
        return self.num_classes, self.num_artefact_values + 1, self.num_classes

    def update(
        self,
        pred: Tensor,
        mask: Tensor,
        artefact: Tensor,
        counted: Tensor | None = None,
        cluster: Tensor | None = None,
    ) -> None:
        """Count a batch.

        Args:
            pred: predicted class ``[B, *spatial]``, integer.
            mask: class of the fine mask ``[B, *spatial]``, integer.
            artefact: ``[B, *spatial]``, bool or type of artefact, ``UNKNOWN_ARTEFACT`` = not annotated.
            counted: bool ``[B]``, False = padding, left out.
            cluster: integer ``[B]`` >= 0 of images that belong together, such as the patient, or -1 for an image
                alone; None = each alone. Only the interval depends on it.

        Raises:
            ValueError: for maps of other shapes, dtypes or ranges, or such clusters.
        """
        check_shapes(pred=pred, mask=mask, artefact=artefact)
        cluster = kept_clusters(cluster, pred)
        pred, mask, artefact, cluster = keep_counted(counted, pred, mask, artefact, cluster)
        check_classes("pred", pred, self.num_classes)
        check_classes("mask", mask, self.num_classes)
        values = artefact_values(artefact, self.num_artefact_values)
        known = values.flatten(1).amax(1) > 0
        codes = fuse((pred, self._shape[0]), (values, self._shape[1]), (mask, self._shape[2]))
        z, s, y = self._shape
        if self.bootstrap:
            by_image = count_cells(codes, z * s * y, by="image").view(-1, z, s, y)[:, :, 1:]
            self.tables.append(by_image[known])
            self.clusters.append(cluster[known])
            table = by_image.sum(0)
        else:
            table = count_cells(codes, z * s * y).view(z, s, y)[:, 1:]
        self.counts += table
        self.images += known.sum()
        if self.permutations:
            grid = torch.tensor([mask.shape[1:]], device=mask.device)
            _check_one_grid([*self.grids, grid])
            if not self.grids:
                self.grids.append(grid)
            self.codes.append(codes[known])

    def compute(self) -> Tensor:
        """S_global in nats, 0-dim float64; `result` holds the rest."""
        if int(self.images) == 0:
            nan = torch.full((self.num_classes - 1,), torch.nan, dtype=torch.float64, device=self.counts.device)
            self._result = SpuriousInformation(nan[0], nan, argmax_class=1)
            return nan[0]
        per_class = pooled_information(self.counts[1:], self.images)
        null, p_value = None, None
        if self.permutations:
            per_class, null, p_value = self._permuted()
        interval = self._interval() if self.bootstrap else None
        value, index = per_class.max(dim=0)
        self._result = SpuriousInformation(value, per_class, int(index) + 1, interval, null, p_value)
        return value

    def result(self) -> SpuriousInformation:
        """Everything found, after the same reduction over processes as `compute`."""
        self.compute()
        assert self._result is not None
        return self._result

    def _interval(self) -> tuple[float, float]:
        tables = dim_zero_cat(self.tables)
        rows = torch.cat([tables.flatten(1), torch.ones_like(tables[:, 0, 0, :1])], dim=1)  # and how many images
        rows = canonical_order(joined(rows, numbered(dim_zero_cat(self.clusters))))
        if len(rows) < 2:  # one image or patient says nothing of the spread between them
            return float("nan"), float("nan")
        tables, sizes = rows[:, :-1].view(-1, *tables.shape[1:])[:, 1:], rows[:, -1]
        residuals = deviance_residuals(tables.sum(0).double() / sizes.sum()).flatten(1)
        replicates = bootstrap_residuals(tables, self.bootstrap, self.seed, sizes)
        low, high = root_interval(residuals, replicates, self.confidence, len(rows))
        return low.item(), high.item()

    def _terms(self, codes: Tensor) -> Tensor:
        if self.estimator == "pixelwise":
            return pixelwise_information(codes, self.num_classes, self.num_artefact_values)
        z, s, y = self._shape
        return pooled_information(count_cells(codes, z * s * y).view(z, s, y)[1:, 1:], len(codes))

    def _permuted(self) -> tuple[Tensor, Tensor, float]:
        """Terms (less the null where pixelwise), mean null per class, and p-value of the maximum."""
        _check_one_grid([*dim_zero_cat(self.grids)])
        codes = canonical_order(dim_zero_cat(self.codes))
        _, s, y = self._shape
        artefact = codes // y % s * y  # the share of S in the code
        rest = codes - artefact
        generator = torch.Generator().manual_seed(self.seed)
        orders = (torch.randperm(len(codes), generator=generator) for _ in range(self.permutations))
        shuffled = torch.stack([self._terms(rest + artefact[order.to(codes.device)]) for order in orders])
        terms, null = self._terms(codes), shuffled.mean(0)
        if self.estimator == "pixelwise":
            terms, shuffled = terms - null, shuffled - null
        extreme = int((shuffled.amax(1) >= terms.amax()).sum())
        return terms, null, (1 + extreme) / (1 + self.permutations)


def _check_one_grid(grids: list[Tensor]) -> None:
    """Maps that are shuffled across images must keep their positions, which images of other shapes do not have."""
    shapes = dict.fromkeys("×".join(map(str, grid.flatten().tolist())) for grid in grids)
    if len(shapes) > 1:
        raise ValueError(
            f"permutations need images of one size, got {' and '.join(shapes)} pixels; "
            "resize or crop them, or set permutations=0"
        )
