"""Empirical ε of two ensembles: honest at the truth, not fooled by dependent pixels, and able to refute."""

import math

import pytest
import torch
from scipy.stats import binomtest

from erode.metrics import pixel_indistinguishability
from erode.metrics.indistinguishability import rate_interval, smallest_epsilon


def ensemble(rates, pixels=200):
    """Tables [M, S=2, Y=2, Z=2] of models that fire on a share of every slice: rates [M] or [M, 2, 2]."""
    fired = (rates.reshape(len(rates), *[1] * (3 - rates.ndim), *rates.shape[1:]) * pixels).round().long()
    fired = fired.expand(len(rates), 2, 2)
    return torch.stack([pixels - fired, fired], -1)


@pytest.mark.parametrize("fired", [0, 1, 7, 20])
def test_interval_of_votes_is_clopper_pearson(fired):
    theirs = binomtest(fired, 20).proportion_ci(confidence_level=0.9, method="exact")
    assert rate_interval(fired, 20, alpha=0.05, spread=False) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_interval_of_shares_covers_whatever_their_law():
    """Means of values in [0, 1]: two-point, uniform and skewed laws, 4000 ensembles each, level 5 % per end."""
    generator = torch.Generator().manual_seed(0)
    models, runs, alpha = 12, 4000, 0.05
    uniform = torch.rand(runs, models, generator=generator, dtype=torch.float64)
    laws = {"votes": (uniform < 0.3).double(), "uniform": uniform, "skewed": uniform**6}
    for name, mean in (("votes", 0.3), ("uniform", 0.5), ("skewed", 1 / 7)):
        ends = [rate_interval(total, models, alpha, spread=True) for total in laws[name].sum(1).tolist()]
        misses = sum(low > mean for low, _ in ends), sum(high < mean for _, high in ends)
        assert max(misses) <= alpha * runs, (name, misses)


def test_smallest_epsilon_by_hand():
    assert smallest_epsilon((0.2, 0.4), (0.3, 0.5), 0.0) == 0
    assert smallest_epsilon((0.6, 0.6), (0.2, 0.2), 0.0) == pytest.approx(math.log(3))  # .6 / .2
    assert smallest_epsilon((0.9, 0.9), (0.5, 0.5), 0.0) == pytest.approx(math.log(5))  # complements: .5 / .1
    assert smallest_epsilon((0.6, 0.6), (0.2, 0.2), 0.1) == pytest.approx(math.log(0.5 / 0.2))
    assert smallest_epsilon((0.6, 0.6), (0.2, 0.2), 0.5) == 0


def test_equal_algorithms_are_refuted_no_more_often_than_allowed():
    """Models differ wildly and their pixels move together: as bad as dependence gets."""
    generator = torch.Generator().manual_seed(1)
    refuted = 0
    for _ in range(300):
        one, other = ((torch.rand(15, generator=generator) < 0.5).double() for _ in range(2))
        refuted += pixel_indistinguishability(ensemble(one), ensemble(other), 0.0, confidence=0.8).epsilon > 0
    assert refuted <= 60  # 20 % of 300


def test_pixels_as_trials_would_refute_a_true_certificate():
    """One algorithm, two ensembles that drew 5 and 10 firing models of 15: 3000 pixels are not 3000 trials."""
    one, other = (torch.arange(15) < fired for fired in (5, 10))
    assert pixel_indistinguishability(ensemble(one.double()), ensemble(other.double()), 0.0).epsilon == 0
    pooled = [rate_interval(fired * 200, 15 * 200, 0.05 / 16, spread=False) for fired in (5, 10)]
    assert smallest_epsilon(*pooled, 0.0) > 0.5


def test_a_true_difference_is_found_where_it_is_and_never_exceeds_the_truth():
    """Slice (s=1, y=0): 90 % against 10 % of models fire; ε is ln 9."""
    generator = torch.Generator().manual_seed(2)
    one, other = (torch.full((120, 2, 2), 0.5).double() for _ in range(2))
    one[:, 1, 0] = (torch.rand(120, generator=generator) < 0.9).double()
    other[:, 1, 0] = (torch.rand(120, generator=generator) < 0.1).double()
    found = pixel_indistinguishability(ensemble(one), ensemble(other), 1e-7)
    assert 0.8 < found.epsilon < math.log(9)
    assert found.per_slice.argmax() == 2  # [s=1, y=0]
    assert found.per_slice.count_nonzero() == 1
    assert found.epsilon < found.ceiling


def test_classes_and_slices_share_the_error_and_empty_slices_do_not():
    tables = torch.zeros(10, 2, 3, 3, dtype=torch.int64)
    tables[:, 0, 0, 1], tables[:, 1, 2, 0] = 5, 1
    assert pixel_indistinguishability(tables, tables, 0.0).tests == 2 * 2


def test_a_slice_of_one_pixel_is_a_vote():
    one, other = (torch.tensor([[0, 1], [1, 0]])[z].expand(20, 2, 2, 2) for z in (0, 1))
    votes = pixel_indistinguishability(one, other, 0.0)
    shares = pixel_indistinguishability(2 * one, 2 * other, 0.0)
    assert votes.epsilon == votes.ceiling > shares.epsilon == shares.ceiling


def test_what_cannot_be_compared_is_refused():
    tables = ensemble(torch.rand(4).double())
    with pytest.raises(ValueError, match="same pixels"):
        pixel_indistinguishability(tables, 2 * tables, 0.0)
    with pytest.raises(ValueError, match="SliceCounts"):
        pixel_indistinguishability(tables[0], tables[0], 0.0)
    with pytest.raises(ValueError, match="artefact maps"):
        pixel_indistinguishability(0 * tables, 0 * tables, 0.0)
    with pytest.raises(ValueError, match="confidence"):
        pixel_indistinguishability(tables, tables, 0.0, confidence=1.0)
