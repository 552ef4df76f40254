"""Distances of probabilities against scipy, and ZRF with its warning."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from erode.metrics import ProbabilityDistance, ZeroRetrainForgetting, jensen_shannon


def softmax(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(1)


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_both_are_what_scipy_and_numpy_say_on_the_forget_atoms(seed):
    p, q = softmax(3, 4, 5, 6, seed=seed), softmax(3, 4, 5, 6, seed=seed + 1000)
    where = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(seed)) < 0.4
    metric = ProbabilityDistance()
    metric.update(p, q, where=where)
    atoms_p, atoms_q = (x.movedim(1, -1)[where].double().numpy() for x in (p, q))
    expected = jensenshannon(atoms_p, atoms_q, axis=1) ** 2
    assert float(metric.compute()["js"]) == pytest.approx(expected.mean(), abs=1e-7)
    assert float(metric.compute()["activation"]) == pytest.approx(np.linalg.norm(atoms_p - atoms_q, axis=1).mean())


def test_divergence_lies_between_0_and_ln_2_and_is_symmetric():
    p, q = softmax(2, 3, 50, seed=0), softmax(2, 3, 50, seed=1)
    p[0, :, 0], q[0, :, 0] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    assert float(jensen_shannon(p, q).max()) == pytest.approx(math.log(2))
    assert torch.equal(jensen_shannon(p, q), jensen_shannon(q, p))
    assert torch.all(jensen_shannon(p, p) == 0)


def test_without_an_atom_there_is_no_distance():
    metric = ProbabilityDistance()
    metric.update(softmax(1, 2, 4, seed=0), softmax(1, 2, 4, seed=1), where=torch.zeros(1, 4, dtype=torch.bool))
    assert all(value.isnan() for value in metric.compute().values())


@pytest.mark.parametrize("bad", [torch.randn(1, 2, 4), torch.full((1, 2, 4), torch.nan)])
def test_logits_and_nan_are_refused(bad):
    with pytest.raises(ValueError, match="softmax"):
        ProbabilityDistance().update(bad, softmax(1, 2, 4, seed=0))


def test_zrf_is_one_minus_the_divergence_in_bits_and_says_what_it_rewards():
    p, random = softmax(2, 3, 9, seed=0), softmax(2, 3, 9, seed=1)
    with pytest.warns(UserWarning, match="right answer on a dilation ring is background"):
        metric = ZeroRetrainForgetting()
    metric.update(p, random)
    bits = jensenshannon(p.double().numpy(), random.double().numpy(), axis=1, base=2) ** 2
    assert float(metric.compute()["zrf"]) == pytest.approx(1 - bits.mean(), abs=1e-7)


def test_zrf_scores_the_right_answer_below_the_random_one():
    """The warning, in numbers: on a ring, background is right and an untrained network says one half."""
    random = torch.full((1, 2, 10), 0.5)
    right = torch.tensor([0.99, 0.01]).view(1, 2, 1).expand(1, 2, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        good, bad = ZeroRetrainForgetting(), ZeroRetrainForgetting()
    good.update(right, random)
    bad.update(random, random)
    assert float(good.compute()["zrf"]) < 0.8 < float(bad.compute()["zrf"]) == 1
