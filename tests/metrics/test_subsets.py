import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.metrics import balanced_subset, inverted_subset


def population(sizes, seed=0):
    """Images of the groups (0,0), (0,1), (1,0), (1,1), …, shuffled, and some of unknown flag."""
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels, flags = torch.cat([groups // 2, torch.tensor([0, 1])]), torch.cat([groups % 2, torch.tensor([-1, -1])])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return labels[order], flags[order]


def correlation(labels, flags):
    return np.corrcoef(labels.numpy(), flags.numpy())[0, 1]


@given(sizes=st.lists(st.integers(3, 60), min_size=4, max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_balanced_is_independent_and_as_large_as_can_be(sizes, seed):
    labels, flags = population(sizes)
    chosen = balanced_subset(labels, flags, seed)
    assert correlation(labels[chosen], flags[chosen]) == pytest.approx(0)
    assert len(chosen) == 4 * min(sizes)
    assert len(chosen.unique()) == len(chosen)
    assert bool((flags[chosen] >= 0).all())


@given(sizes=st.lists(st.integers(50, 400), min_size=4, max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_inverted_turns_the_correlation_round_and_keeps_prevalence(sizes, seed):
    labels, flags = population(sizes)
    known = flags >= 0
    before = correlation(labels[known], flags[known])
    chosen = inverted_subset(labels, flags, seed)
    rounding = 4 / len(chosen) ** 0.5 / min(np.bincount(2 * labels[chosen] + flags[chosen])) ** 0.5
    assert correlation(labels[chosen], flags[chosen]) == pytest.approx(-before, abs=rounding)
    prevalence = [float(labels[which].double().mean()) for which in (chosen, known)]
    assert prevalence[0] == pytest.approx(prevalence[1], abs=4 / len(chosen))
    assert len(chosen.unique()) == len(chosen)


def test_published_shape_of_the_inverted_set():
    """Training 95 % correlated: 1900/100 and 100/1900. Inverted: 5 % (Mueller & Berens 2026)."""
    labels, flags = population([1900, 100, 100, 1900])
    chosen = inverted_subset(labels, flags)
    assert torch.bincount(2 * labels[chosen] + flags[chosen]).tolist() == [5, 100, 100, 5]


def test_seed_decides_the_draw_and_nothing_else():
    labels, flags = population([30, 9, 12, 40])
    state = torch.random.get_rng_state()
    assert torch.equal(balanced_subset(labels, flags, 1), balanced_subset(labels, flags, 1))
    assert not torch.equal(balanced_subset(labels, flags, 1), balanced_subset(labels, flags, 2))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_three_classes():
    labels, flags = population([10, 4, 5, 8, 6, 6])
    chosen = balanced_subset(labels, flags)
    assert torch.bincount(2 * labels[chosen] + flags[chosen]).tolist() == [4] * 6


def test_confounded_labels_are_refused():
    with pytest.raises(ValueError, match="class 1 is free of the artefact"):
        balanced_subset(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="too unequal to invert"):
        inverted_subset(*population([100, 2, 2, 60]))
    with pytest.raises(ValueError, match="known artefact flag"):
        balanced_subset(torch.tensor([0]), torch.tensor([-1]))
