"""ROC curves of samples that come in clusters: points, exact intervals, and a bootstrap over whole clusters."""

from __future__ import annotations

import math

import torch
from scipy import stats
from scipy.special import expit
from torch import Tensor

GRID = 2048
"""Scores of either side that are told apart in resamples; up to that many, nothing is rounded."""

_CHUNK = 100
"""Resamples computed at a time, which bounds the memory."""

_CONSTANT = 1e-12
"""Standard deviation of replicates that differ by rounding alone."""


def roc_points(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """False and true positive rates of all thresholds, from none called positive to all.

    Args:
        positive: scores ``[P]``, larger = more positive.
        negative: scores ``[N]``.

    Returns:
        (false positive rates, true positive rates), float64 ``[T]``, both rising from 0 to 1.

    Example:
        >>> roc_points(torch.tensor([2.0, 1.0]), torch.tensor([1.0]))
        (tensor([0., 0., 1.], dtype=torch.float64), tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64))
    """
    thresholds = torch.unique(torch.cat([positive, negative])).flip(0)

    def rates(scores: Tensor) -> Tensor:
        at_least = len(scores) - torch.searchsorted(scores.sort().values, thresholds)
        return torch.cat([at_least.new_zeros(1), at_least]).double() / len(scores)

    return rates(negative), rates(positive)


def threshold_at(negative: Tensor, rate: float) -> float:
    """The lowest threshold that at most a share ``rate`` of the negatives exceed.

    Args:
        negative: scores ``[N]``.
        rate: false positive rate, 0 to 1.

    Returns:
        A score, or -inf for ``rate=1``; what lies above it is called positive.

    Example:
        >>> threshold_at(torch.arange(200.0), 0.01)  # 198 and 199 exceed it
        197.0
    """
    allowed = math.floor(rate * len(negative) + 1e-9)
    if allowed >= len(negative):
        return -math.inf
    return float(negative.sort(descending=True).values[allowed])


def exact_binomial(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a probability from independent trials (Clopper and Pearson 1934): never too short.

    Args:
        successes: 0 to ``trials``.
        trials: >= 1.
        confidence: of the interval, between 0 and 1.

    Returns:
        Lower and upper end.

    Example:
        >>> [round(end, 4) for end in exact_binomial(0, 100)]
        [0.0, 0.0362]
    """
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(stats.beta.isf(tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def resampled_weights(clusters: Tensor, strata: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each item occurs when whole clusters are drawn with replacement, stratum by stratum.

    Args:
        clusters: ``[n]`` integers; items with one number are drawn together.
        strata: ``[n]`` integers; each keeps its number of clusters. A cluster counts to that of its first item.
        resamples: R.
        generator: of the draws, on the CPU.

    Returns:
        int64 ``[R, n]``.

    Example:
        >>> one = torch.ones(3, dtype=torch.long)
        >>> resampled_weights(torch.tensor([0, 1, 1]), one, 4, torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3])
    """
    names, member = torch.unique(clusters, return_inverse=True)
    first = torch.full((len(names),), len(clusters)).scatter_reduce(0, member, torch.arange(len(clusters)), "amin")
    stratum_of = strata[first]
    drawn = torch.zeros(resamples, len(names), dtype=torch.long)
    for stratum in torch.unique(stratum_of):
        within = (stratum_of == stratum).nonzero().flatten()
        draws = within[torch.randint(len(within), (resamples, len(within)), generator=generator)]
        drawn.scatter_add_(1, draws, torch.ones_like(draws))
    return drawn[:, member]


def resampled_rates(
    positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor], rate: float
) -> tuple[Tensor, Tensor]:
    """AUC, and true positive rate at a false positive rate, of each resample.

    Where a side has more than 2,048 distinct scores they are rounded to as many quantiles, which moves an AUC by
    less than 1/2,000.

    Args:
        positive: scores ``[P]`` and the item ``[P]`` that each belongs to, 0 to p - 1.
        negative: the same, ``[N]``, 0 to q - 1.
        weights: of the items, ``[R, p]`` and ``[R, q]``, from `resampled_weights`.
        rate: false positive rate.

    Returns:
        (AUC, true positive rate), float64 ``[R]`` each.

    Example:
        >>> one = torch.ones(1, 2, dtype=torch.long), torch.ones(1, 1, dtype=torch.long)
        >>> sides = (torch.tensor([0.5, 0.9]), torch.arange(2)), (torch.tensor([0.7]), torch.arange(1))
        >>> [value.item() for value in resampled_rates(*sides, one, rate=0.01)]
        [0.5, 0.5]
    """
    edges = torch.unique(torch.cat([_quantiles(positive[0]), _quantiles(negative[0])]))
    up, down = (_histograms(*side, edges, w.shape[1]) for side, w in zip((positive, negative), weights, strict=True))
    areas, found = [], []
    for w_up, w_down in zip(*(torch.split(w, _CHUNK) for w in weights), strict=True):
        # Counts are whole numbers far below 2**53: the products are exact, whatever the order of summation.
        p, n = w_up.double() @ up, w_down.double() @ down
        total_p, total_n = p.sum(1, keepdim=True), n.sum(1, keepdim=True)
        not_above = n.cumsum(1)
        areas.append((p * (not_above - n / 2)).sum(1) / (total_p * total_n).flatten())
        allowed = (total_n - not_above) <= rate * total_n * (1 + 1e-9)
        above = (total_p - p.cumsum(1)) / total_p
        found.append((above * allowed).amax(1) if rate < 1 else torch.ones(len(p), dtype=torch.float64))
    return torch.cat(areas), torch.cat(found)


def cluster_interval(value: float, replicates: Tensor, clusters: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Interval for an AUC from its spread over resamples, on the logit scale and with Student's quantiles.

    .. math:: \mathrm{logit}\, a \pm t_{n-1} \frac{s \sqrt{n/(n-1)}}{a(1-a)}

    With a few dozen clusters, plain percentiles of the replicates are too short: they ignore both the factor and t.
    Where every comparison has the same outcome (a = 1, 0, or ½ by ties), resampling says nothing of how often others
    occur. But others of probability p stay unseen in n independent comparisons with probability :math:`(1-p)^n`, so
    p may be as large as :math:`r = 1 - ((1-c)/2)^{1/n}`, and the interval is :math:`a(1-r)` to :math:`a + r(1-a)`.
    One cluster says nothing: [0, 1].

    Args:
        value: a, the estimate, in [0, 1].
        replicates: ``[R]``, of standard deviation s.
        clusters: n, independent units on the side that has fewer.
        confidence: c.

    Returns:
        Lower and upper end.

    Source:
        Logit intervals for the AUC: Pepe 2003, The Statistical Evaluation of Medical Tests.

    Example:
        >>> [round(end, 3) for end in cluster_interval(0.7, torch.tensor([0.6, 0.7, 0.8]), clusters=30)]
        [0.464, 0.863]
        >>> [round(end, 3) for end in cluster_interval(1.0, torch.ones(100), clusters=50)]
        [0.929, 1.0]
    """
    if clusters < 2:
        return 0.0, 1.0
    if value in (0.0, 1.0) or is_constant(replicates):
        return unseen_interval(value, clusters, confidence)
    half = half_width(replicates, clusters, confidence) / (value * (1 - value))
    centre = math.log(value / (1 - value))
    return float(expit(centre - half)), float(expit(centre + half))


def share_interval(
    counts: Tensor, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Interval for a share of images that come in clusters, from resampled clusters: see `cluster_interval`.

    Args:
        counts: ``[C, 2]``, successes and trials of each cluster, trials >= 1; all of them independent.
        confidence: of the interval.
        resamples: of the clusters.
        seed: of the resamples.

    Returns:
        Lower and upper end.

    Example:
        >>> four = torch.tensor([[5, 5], [4, 5], [0, 5], [5, 5]])
        >>> [round(end, 2) for end in share_interval(four)], [round(end, 2) for end in exact_binomial(14, 20)]
        ([0.06, 0.99], [0.46, 0.88])
    """
    one = torch.zeros(len(counts), dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    drawn = resampled_weights(torch.arange(len(counts)), one, resamples, generator).double() @ counts.double()
    successes, trials = counts.double().sum(0).tolist()
    return cluster_interval(successes / trials, drawn[:, 0] / drawn[:, 1], len(counts), confidence)


def unseen_interval(value: float, clusters: int, confidence: float = 0.95) -> tuple[float, float]:
    """What outcomes that none of the clusters showed, and that may yet occur, leave of a value: see `cluster_interval`.

    Args:
        value: the estimate, in [0, 1].
        clusters: n >= 1, independent units.
        confidence: of the interval.

    Returns:
        Lower and upper end; for 0 and 1 those of `exact_binomial` with n trials.

    Example:
        >>> [round(end, 4) for end in unseen_interval(0.0, clusters=100)]
        [0.0, 0.0362]
    """
    reach = 1 - ((1 - confidence) / 2) ** (1 / clusters)
    return value * (1 - reach), value + reach * (1 - value)


def is_constant(replicates: Tensor) -> bool:
    """Whether several replicates differ by rounding alone.

    Example:
        >>> is_constant(torch.full((3,), 0.5)), is_constant(torch.tensor([0.5, 0.6]))
        (True, False)
    """
    return len(replicates) > 1 and float(replicates.double().std()) < _CONSTANT


def half_width(replicates: Tensor, clusters: int, confidence: float = 0.95) -> float:
    """Half the width of an interval: Student's quantile times the standard error over resamples.

    Args:
        replicates: ``[R]``.
        clusters: n >= 2, independent units on the side that has fewer.
        confidence: of the interval.

    Example:
        >>> round(half_width(torch.tensor([0.6, 0.7, 0.8]), clusters=30), 3)
        0.208
    """
    spread = float(replicates.double().std()) if len(replicates) > 1 else math.inf
    return float(stats.t.isf((1 - confidence) / 2, clusters - 1)) * spread * math.sqrt(clusters / (clusters - 1))


def percentile_interval(
    value: float, replicates: Tensor, clusters: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentiles of bootstrap replicates, for a share that can be anywhere in [0, 1], its ends included.

    Where the share is 0 or 1, or the percentiles have no width, resamples cannot show what no cluster showed; then the
    interval reaches as far as `cluster_interval` does there, too. One cluster, or one resample, says nothing: [0, 1].

    Args:
        value: the share, in [0, 1].
        replicates: ``[R]``.
        clusters: n, independent units on the side that has fewer.
        confidence: of the interval.

    Returns:
        Lower and upper end.

    Example:
        >>> percentile_interval(0.5, torch.arange(101.0) / 100, clusters=30, confidence=0.5)
        (0.25, 0.75)
        >>> [round(end, 3) for end in percentile_interval(0.0, torch.zeros(100), clusters=50)]
        [0.0, 0.071]
    """
    if clusters < 2 or len(replicates) < 2:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low, high = torch.quantile(replicates, torch.tensor([tail, 1 - tail], dtype=replicates.dtype)).tolist()
    if value in (0.0, 1.0) or high - low < _CONSTANT:
        least, most = unseen_interval(value, clusters, confidence)
        low, high = min(low, least), max(high, most)
    return low, high


def _quantiles(scores: Tensor) -> Tensor:
    values: Tensor = torch.unique(scores)
    if len(values) <= GRID:
        return values
    at = torch.linspace(0, len(scores) - 1, GRID).round().long()
    return scores.sort().values[at]


def _histograms(scores: Tensor, items: Tensor, edges: Tensor, count: int) -> Tensor:
    """Scores per item and interval between edges, float64 ``[items, edges + 1]``."""
    bins = len(edges) + 1
    cells = items * bins + torch.searchsorted(edges, scores)
    return torch.bincount(cells, minlength=count * bins).view(count, bins).double()
