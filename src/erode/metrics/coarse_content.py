"""What lies under coarse masks: tightness, artefacts, spurious information and variance (theory §7.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from .clusters import joined, kept_clusters, numbered
from .counts import artefact_values, check_shapes, count_cells, fuse, keep_counted
from .gathering import RowsMetric
from .information import deviance_residuals, root_interval, table_information
from .specificity import spurious_information_closed_form


@dataclass(frozen=True)
class Content:
    """What `CoarseContent` found; NaN where the data do not define it.

    Args:
        tightness: γ = P(Y=1|Ỹ=1).
        artefact_share: w = P(S=1|Y=0), over all background of images with a lesion.
        artefact_share_inside: P(S=1|Y=0, Ỹ=1), in the ring; equal to w where the artefact ignores the coarse mask.
        overlap: P(S=1|Y=1), which the closed form takes to be 0.
        information: I(S;Y|Ỹ=1) as counted, in nats per pixel.
        interval: its lower and upper end.
        published: the closed form at γ and w, in nats per pixel.
        closed_form: the closed form at γ and w inside, in nats per pixel; exact where the overlap is 0.
        variance: Var[X|Ỹ=1], mean over channels, in squared units of the image.
    """

    tightness: float
    artefact_share: float
    artefact_share_inside: float
    overlap: float
    information: float
    interval: tuple[float, float]
    published: float
    closed_form: float
    variance: float


class CoarseContent(RowsMetric):
    r"""Spurious information and variance of the labels that coarse masks give, beside their closed forms.

    With Y the fine mask, Ỹ the coarse one and S the artefact, all of any class: how much a pixel that is called
    positive says about the artefact. It is a property of the data, before any training, and is to be read with the
    labels that a model will be trained on. Images are those with a lesion. Pixels whose artefact is not annotated are
    left out of all but tightness and variance.

    The interval resamples images, or clusters of them (patients) where `update` is told of them, and reaches 0
    (`root_interval`).

    Args:
        bootstrap: resamples.
        confidence: of the interval.
        seed: of the resamples; images are sorted by content first.
        kwargs: of ``torchmetrics.Metric``.

    Source:
        Saab et al. 2022, Definitions 1 and 3, Propositions 2 and 4.

    Example:
        >>> mask, coarse = torch.tensor([[[1, 0, 0, 0]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> metric = CoarseContent(bootstrap=10)
        >>> metric.update(torch.tensor([[[[1.0, 3.0, 0.0, 0.0]]]]), mask, coarse, torch.tensor([[[0, 1, 0, 0]]]))
        >>> content = metric.result()
        >>> content.tightness, content.artefact_share_inside, content.variance
        (0.5, 1.0, 1.0)
        >>> round(content.information, 4) == round(content.closed_form, 4) == 0.6931  # ln 2
        True
    """

    is_differentiable = False
    full_state_update = False

    rows: list[Tensor]
    clusters: list[Tensor]

    def __init__(self, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bootstrap, self.confidence, self.seed = bootstrap, confidence, seed
        self._result: Content | None = None
        self.add_rows("rows", torch.float64, dimensions=2)
        self.add_rows("clusters", torch.int64)

    def update(
        self,
        image: Tensor,
        mask: Tensor,
        coarse: Tensor,
        artefact: Tensor,
        counted: Tensor | None = None,
        cluster: Tensor | None = None,
    ) -> None:
        """Count a batch.

        Args:
            image: ``[B, C, *spatial]``.
            mask: class of the fine mask ``[B, *spatial]``, integer.
            coarse: class of the coarse mask ``[B, *spatial]``, integer.
            artefact: ``[B, *spatial]``, 0 = none, ``UNKNOWN_ARTEFACT`` = not annotated.
            counted: bool ``[B]``, False = padding, left out.
            cluster: integer ``[B]`` >= 0 of images that belong together, such as the patient, or -1 for an image
                alone; None = each alone. Only the interval depends on it.

        Raises:
            ValueError: for maps of other shapes, or such clusters.
        """
        check_shapes(mask=mask, coarse=coarse, artefact=artefact)
        cluster = kept_clusters(cluster, mask)
        image, mask, coarse, artefact, cluster = keep_counted(counted, image, mask, coarse, artefact, cluster)
        values = artefact_values(artefact, 2)  # 0 = not annotated
        codes = fuse((coarse > 0, 2), (values, 3), (mask > 0, 2))
        tables = count_cells(codes, 12, by="image").view(-1, 12).double()
        inside = (coarse > 0).flatten(1).unsqueeze(1)
        pixels = image.double().flatten(2)
        # About the centre of the image: sums of squares lose no digits where the mean is large.
        centre = pixels.mean(2, keepdim=True)
        moments = [((pixels - centre) ** power * inside).sum(2) for power in (1, 2)]
        rows = torch.cat([tables, centre.flatten(1), *moments], dim=1)
        lesion = (mask > 0).flatten(1).any(1)
        self.rows.append(rows[lesion])
        self.clusters.append(cluster[lesion])

    def compute(self) -> Tensor:
        """I(S;Y|Ỹ=1) in nats per pixel, 0-dim float64; `result` holds the rest."""
        rows = dim_zero_cat(self.rows).cpu() if len(self.rows) else torch.zeros(0, 15, dtype=torch.float64)
        clusters = numbered(dim_zero_cat(self.clusters).cpu()) if len(rows) else torch.zeros(0, dtype=torch.int64)
        order = torch.from_numpy(np.lexsort((clusters.numpy(), *rows.numpy().T)))
        rows, clusters = rows[order], clusters[order]
        channels = (rows.shape[1] - 12) // 3
        cells = rows[:, :12].view(-1, 2, 3, 2)  # image, Ỹ, S (not annotated, no, yes), Y
        total, known = cells.sum(0), cells[:, :, 1:].sum(0)
        gamma, outside = _share(total[1].sum(0)), known.sum(0)[:, 0]
        share, inside = _share(outside), _share(known[1, :, 0])
        if bool((known[1].sum(0) > 0).all()):  # lesion and ring are both annotated
            published, exact = (float(spurious_information_closed_form(gamma, w)) for w in (share, inside))
        else:
            published = exact = 0.0 if gamma == 1 and float(known.sum()) else float("nan")
        value, interval = self._information(cells[:, 1, 1:], clusters)
        self._result = Content(
            tightness=gamma,
            artefact_share=share,
            artefact_share_inside=inside,
            overlap=_share(known.sum(0)[:, 1]),
            information=value,
            interval=interval,
            published=published,
            closed_form=exact,
            variance=_variance(rows[:, 12:].view(len(rows), 3, channels), cells[:, 1].sum((1, 2))),
        )

        return torch.tensor(value, dtype=torch.float64)

    def result(self) -> Content:
        """Everything found, after the same reduction over processes as `compute`."""
        self.compute()
        assert self._result is not None
        return self._result

    def _information(self, tables: Tensor, clusters: Tensor) -> tuple[float, tuple[float, float]]:
        """Information of the pixels ``[N, S, Y]`` of all images, in nats per pixel, and its interval."""
        known = tables.sum((1, 2)) > 0
        annotated = joined(tables[known].flatten(1), clusters[known]).view(-1, 2, 2)
        if not len(annotated):
            return float("nan"), (float("nan"), float("nan"))
        whole = annotated.sum(0)
        value = float(table_information(whole) / whole.sum())
        if len(annotated) < 2:  # one image or patient says nothing of the spread between them
            return value, (float("nan"), float("nan"))
        generator = torch.Generator().manual_seed(self.seed)
        draws = torch.randint(len(annotated), (self.bootstrap, len(annotated)), generator=generator)
        weights = torch.zeros(self.bootstrap, len(annotated), dtype=torch.float64)
        weights.scatter_add_(1, draws, torch.ones_like(weights))
        sums = (weights @ annotated.flatten(1)).view(-1, 2, 2)
        replicates = deviance_residuals(sums / sums.sum((1, 2), keepdim=True))
        residuals = deviance_residuals(whole / whole.sum())
        low, high = root_interval(residuals.view(1, 4), replicates.view(-1, 1, 4), self.confidence, len(annotated))
        return value, (float(low), float(high))


def coarse_variance(gamma: float, w: float, lesion_mean: float, artefact_mean: float, noise: float) -> float:
    r"""Variance of pixels that a coarse mask calls positive, where lesion and artefact shift the mean of noise.

    .. math:: σ^2 + μ_a^2 γ(1-γ) + μ_s^2 w(1-γ)(1-w(1-γ)) - 2 μ_a μ_s w γ(1-γ)

    Args:
        gamma: γ = P(Y=1|Ỹ=1).
        w: P(S=1|Y=0, Ỹ=1); lesion and artefact do not overlap.
        lesion_mean: μ_a.
        artefact_mean: μ_s.
        noise: σ.

    Returns:
        In squared units of the image.

    Source:
        Saab et al. 2022, Proposition 2.

    Example:
        >>> coarse_variance(gamma=1.0, w=0.1, lesion_mean=2.0, artefact_mean=-10.0, noise=1.0)
        1.0
    """
    q = 1 - gamma
    lesion, artefact = lesion_mean**2 * gamma * q, artefact_mean**2 * w * q * (1 - w * q)
    return noise**2 + lesion + artefact - 2 * lesion_mean * artefact_mean * w * gamma * q


def _share(pair: Tensor) -> float:
    """Share of the second of two counts."""
    return float(pair[1] / pair.sum())


def _variance(moments: Tensor, pixels: Tensor) -> float:
    """Variance within masks, from centre, sum and sum of squares about it ``[N, 3, C]`` and pixels ``[N]``."""
    centre, first, second = moments.unbind(1)
    count, weights = pixels.sum(), pixels.unsqueeze(1)
    shift = centre - centre.mean(0)
    mean = (first + shift * weights).sum(0) / count
    square = (second + 2 * shift * first + shift.square() * weights).sum(0) / count
    return float((square - mean.square()).mean())
