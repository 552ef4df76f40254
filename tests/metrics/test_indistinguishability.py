"""Empirical ε of two ensembles: honest at the truth, not fooled by dependent pixels, and able to refute."""

import math

import pytest
import torch

from erode.metrics import pixel_indistinguishability
from erode.metrics.indistinguishability import smallest_epsilon
from erode.metrics.resampling import exact_binomial


def ensemble(rates, pixels=200):
    """Tables [M, S=2, Y=2, Z=2] of models that fire on a share of every slice: rates [M] or [M, 2, 2]."""
    fired = (rates.reshape(len(rates), *[1] * (3 - rates.ndim), *rates.shape[1:]) * pixels).round().long()
    fired = fired.expand(len(rates), 2, 2)
    return torch.stack([pixels - fired, fired], -1)


def test_smallest_epsilon_by_hand():
    assert smallest_epsilon((0.2, 0.4), (0.3, 0.5), 0.0) == 0
    assert smallest_epsilon((0.6, 0.6), (0.2, 0.2), 0.0) == pytest.approx(math.log(3))  # .6 / .2
    assert smallest_epsilon((0.9, 0.9), (0.5, 0.5), 0.0) == pytest.approx(math.log(5))  # complements: .5 / .1
    assert smallest_epsilon((0.6, 0.6), (0.2, 0.2), 0.1) == pytest.approx(math.log(0.5 / 0.2))
    assert smallest_epsilon((0.6, 0.6), (0.2, 0.2), 0.5) == 0


LAWS = {"votes": lambda u: (u < 0.5).double(), "uniform": lambda u: u, "skewed": lambda u: u**6}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_equal_algorithms_are_refuted_no_more_often_than_allowed(law):
    """Slices differ within a model, and its pixels move together: as bad as dependence gets."""
    generator = torch.Generator().manual_seed(1)
    refuted = 0
    for _ in range(200):
        one, other = (law(torch.rand(16, 2, 2, generator=generator)) for _ in range(2))
        refuted += pixel_indistinguishability(ensemble(one), ensemble(other), 0.0, confidence=0.8).epsilon > 0
    assert refuted <= 40  # 20 % of 200


def test_pixels_as_trials_would_refute_a_true_certificate():
    """One algorithm, two ensembles that drew 5 and 10 firing models of 15: 3000 pixels are not 3000 trials."""
    one, other = (torch.arange(15) < fired for fired in (5, 10))
    assert pixel_indistinguishability(ensemble(one.double()), ensemble(other.double()), 0.0).epsilon == 0
    pooled = [exact_binomial(fired * 200, 15 * 200, 1 - 0.1 / 16) for fired in (5, 10)]
    assert smallest_epsilon(*pooled, 0.0) > 0.5


def test_a_true_difference_is_found_where_it_is_and_never_exceeds_the_truth():
    """Slice (s=1, y=0): 90 % against 10 % of models fire; ε is ln 9."""
    generator = torch.Generator().manual_seed(2)
    one, other = (torch.rand(200, 2, 2, generator=generator).double() for _ in range(2))
    one[:, 1, 0] = (torch.rand(200, generator=generator) < 0.9).double()
    other[:, 1, 0] = (torch.rand(200, generator=generator) < 0.1).double()
    found = pixel_indistinguishability(ensemble(one), ensemble(other), 1e-7)
    assert 1.2 < found.epsilon < math.log(9)
    assert (found.artefact, found.true_class, found.called) == (1, 0, 1)
    assert found.rates[0] > found.rates[1]
    assert found.epsilon < found.ceiling


def test_shares_that_never_meet_are_told_apart_however_small_the_gap():
    """40 % against 45 % of a slice in every model: means alone would need thousands of models."""
    generator = torch.Generator().manual_seed(3)
    one, other = (share + 0.02 * torch.rand(40, generator=generator).double() for share in (0.45, 0.40))
    found = pixel_indistinguishability(ensemble(one), ensemble(other), 1e-7)
    assert found.epsilon == found.ceiling > 1.3
    assert 0.4 < found.threshold <= 0.47


def test_the_choice_knows_nothing_of_the_models_that_are_counted():
    """Every second model is counted; what the others do decides the event alone."""
    one, other = (torch.full((8,), rate).double() for rate in (0.9, 0.1))
    one[::2] = other[::2] = 0.5
    found = pixel_indistinguishability(ensemble(one), ensemble(other), 0.0)
    assert found.models == (4, 4)
    assert found.rates[0] == found.rates[1]
    assert found.epsilon == 0


def test_what_cannot_be_compared_is_refused():
    tables = ensemble(torch.rand(4).double())
    with pytest.raises(ValueError, match="same pixels"):
        pixel_indistinguishability(tables, 2 * tables, 0.0)
    with pytest.raises(ValueError, match="SliceCounts"):
        pixel_indistinguishability(tables[0], tables[0], 0.0)
    with pytest.raises(ValueError, match="artefact maps"):
        pixel_indistinguishability(0 * tables, 0 * tables, 0.0)
    with pytest.raises(ValueError, match="two or more"):
        pixel_indistinguishability(tables[:1], tables, 0.0)
    with pytest.raises(ValueError, match="confidence"):
        pixel_indistinguishability(tables, tables, 0.0, confidence=1.0)
