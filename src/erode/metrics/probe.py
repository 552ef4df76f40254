"""Linear probe: can the artefact still be read off the bottleneck (theory §8)?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn
from torchmetrics.utilities.data import dim_zero_cat

from ..batch import UNKNOWN_FLAG
from .auroc import mann_whitney_auroc
from .clusters import first_places, kept_clusters, numbered
from .counts import canonical_order, check_flags, keep_counted
from .gathering import RowsMetric


@contextmanager
def pooled_features(network: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Collect the output of a layer, averaged over space, at every forward pass.

    Args:
        network: any module; it is not changed, and should be in evaluation mode.
        layer: name of the layer, as ``named_modules`` lists it.

    Yields:
        A list that grows by one ``[B, C]`` per forward pass.

    Raises:
        ValueError: if there is no such layer, or its output is no tensor ``[B, C, ...]``.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> with torch.no_grad(), pooled_features(network, "1") as features:
        ...     _ = network(torch.zeros(5, 1, 8, 8))
        >>> features[0].shape
        torch.Size([5, 4])
    """
    layers = dict(network.named_modules())
    if layer not in layers:
        raise ValueError(f"the network has no layer {layer!r}; it has {', '.join(name for name in layers if name)}")
    features: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise ValueError(f"layer {layer!r} does not return a tensor [B, C, ...]; name one that does")
        features.append(output.detach().reshape(*output.shape[:2], -1).float().mean(2))

    handle = layers[layer].register_forward_hook(keep)
    try:
        yield features
    finally:
        handle.remove()


def ridge_logistic(
    features: NDArray[np.float64], labels: NDArray[np.float64], penalty: float = 1.0
) -> tuple[NDArray[np.float64], float]:
    r"""Logistic regression with a ridge on the weights, none on the intercept.

    .. math:: \min_{w, b} \; \tfrac{λ}{2} ‖w‖² + Σ_i \ln(1 + e^{-z_i (w·x_i + b)}), \quad z_i = ±1

    Args:
        features: ``[N, D]``, of comparable scale.
        labels: ``[N]``, 0 or 1.
        penalty: λ > 0.

    Returns:
        Weights ``[D]`` and intercept.

    Example:
        >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
        >>> weights, intercept = ridge_logistic(x, np.array([0.0, 0.0, 1.0, 1.0]))
        >>> bool(weights[0] > 0), bool(abs(intercept) < 1e-6)
        (True, True)
    """

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, logits = theta[:-1], features @ theta[:-1] + theta[-1]
        error = expit(logits) - labels
        loss = np.logaddexp(0.0, logits).sum() - labels @ logits + penalty / 2 * weights @ weights
        return float(loss), np.append(features.T @ error + penalty * weights, error.sum())

    start = np.zeros(features.shape[1] + 1)
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 10_000, "gtol": 1e-8, "ftol": 0}
    )
    return found.x[:-1], float(found.x[-1])


class LinearProbe(RowsMetric):
    r"""AUROC with which a linear probe reads the artefact flag off frozen features.

    A ridge logistic regression (`ridge_logistic`) is fitted to standardised features of one half of the
    images, drawn at random within each flag, and tested on the other half. ½ = the artefact cannot be read
    linearly. Clusters of images (patients), of which `update` may be told, stay in one half: those of either flag, and
    those of both, are halved each by themselves.

    Unlearning certified on outputs alone may leave the artefact in the features. But an *untrained* network
    passes a large artefact through as well: the value to compare with is the probe on the retrained model, not
    ½. Name the clusters of images that are not independent, or the two halves share patients.

    Args:
        penalty: λ, the ridge on weights of standardised features.
        seed: of the halves. Images are sorted by content first, so the result does not depend on the number
            of processes.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: for a penalty that is not positive.

    Source: Alain & Bengio 2017 (linear classifier probes); theory §8.

    Example:
        >>> flags = torch.arange(20) % 2
        >>> probe = LinearProbe()
        >>> probe.update(flags[:, None] + torch.linspace(0, 0.5, 20)[:, None], flags)
        >>> probe.compute()
        tensor(1., dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    features: list[Tensor]
    flags: list[Tensor]
    clusters: list[Tensor]

    def __init__(self, penalty: float = 1.0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not penalty > 0:
            raise ValueError(f"penalty must be positive, got {penalty}; separable features have no other solution")
        self.penalty, self.seed = penalty, seed
        self.add_rows("features", torch.float64, dimensions=2)
        self.add_rows("flags", torch.int64)
        self.add_rows("clusters", torch.int64)

    def update(
        self, features: Tensor, flags: Tensor, counted: Tensor | None = None, cluster: Tensor | None = None
    ) -> None:
        """Keep the features of a batch.

        Args:
            features: float ``[B, D]``, say from `pooled_features`.
            flags: ``[B]``, 1 = the image shows an artefact, 0 = it does not, ``UNKNOWN_FLAG`` = left out.
            counted: bool ``[B]``, False = padding, left out.
            cluster: integer ``[B]`` >= 0 of images that belong together, such as the patient, or -1 for an image
                alone; None = each alone.

        Raises:
            ValueError: for other shapes, flags or clusters, or features that are not finite.
        """
        if features.ndim != 2:
            raise ValueError(f"features must be [B, D], got {list(features.shape)}")
        check_flags(flags, features)
        features, flags, cluster = keep_counted(counted, features, flags, kept_clusters(cluster, flags))
        if not bool(features.isfinite().all()):
            raise ValueError("features hold NaN or infinity; the model diverged, or its input holds NaN")
        known = flags != UNKNOWN_FLAG
        self.features.append(features[known].detach().double())
        self.flags.append(flags[known].long())
        self.clusters.append(cluster[known])

    def compute(self) -> Tensor:
        """AUROC on the second half, 0-dim float64; NaN with fewer than two images or clusters of either flag."""
        if not len(self.features):
            return torch.tensor(torch.nan, dtype=torch.float64)
        flags, clusters = dim_zero_cat(self.flags), numbered(dim_zero_cat(self.clusters))
        rows = torch.cat([flags[:, None], dim_zero_cat(self.features), clusters[:, None]], dim=1)
        rows = canonical_order(rows).cpu()
        train, test = self._halves(rows[:, :-1], rows[:, -1].long())
        if not 0 < float(train[:, 0].sum()) < len(train):
            return torch.tensor(torch.nan, dtype=torch.float64)
        mean, spread = train[:, 1:].mean(0), train[:, 1:].std(0, correction=0)
        scale = torch.where(spread > 0, spread, 1.0)
        fit = ((train[:, 1:] - mean) / scale).numpy()
        weights, _ = ridge_logistic(fit, train[:, 0].numpy(), self.penalty)
        scores = ((test[:, 1:] - mean) / scale) @ torch.from_numpy(weights)
        return mann_whitney_auroc(scores[test[:, 0] == 1], scores[test[:, 0] == 0])

    def _halves(self, rows: Tensor, clusters: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Two halves with the flags in equal shares and whole clusters; an odd one goes to the test."""
        clusters = torch.arange(len(rows)) if clusters is None else clusters
        first, flags = first_places(clusters), rows[:, 0].long()
        lowest = torch.ones_like(first).scatter_reduce(0, clusters, flags, "amin")
        highest = torch.zeros_like(first).scatter_reduce(0, clusters, flags, "amax")
        generator = torch.Generator().manual_seed(self.seed)
        halves: tuple[list[Tensor], list[Tensor]] = ([], [])
        for low, high in ((0, 0), (1, 1), (0, 1)):
            own = ((lowest == low) & (highest == high)).nonzero().flatten()
            own = own[first[own].argsort()][torch.randperm(len(own), generator=generator)]
            halves[0].append(own[: len(own) // 2])
            halves[1].append(own[len(own) // 2 :])
        train, test = (_rows_of(torch.cat(half), rows, clusters) for half in halves)
        return train, test


def _rows_of(chosen: Tensor, rows: Tensor, clusters: Tensor) -> Tensor:
    """Rows of the chosen clusters, cluster by cluster."""
    place = torch.full((int(clusters.max()) + 1 if len(clusters) else 0,), -1)
    place[chosen] = torch.arange(len(chosen))
    inside = (place[clusters] >= 0).nonzero().flatten()
    return rows[inside[place[clusters[inside]].argsort(stable=True)]]
