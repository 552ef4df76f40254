"""Noise: Gaussian, independent over everything it should be, a function of the secret alone."""

import copy
import pickle

import pytest
import torch
from scipy import stats

from erode.callbacks.noise import KeyedNoise, shared_secret

WEIGHTS = [torch.zeros(300, 300), torch.zeros(7)]


def test_it_is_standard_gaussian():
    drawn = KeyedNoise(b"a").draw(WEIGHTS, 0)[0].flatten()
    assert drawn.dtype == torch.float32
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-3


def test_single_precision_ends_too_early_and_this_does_not():
    """Torch's float32 normals on the CPU cannot exceed 5.77; beyond lie 8e-9 of the mass, which δ notices."""
    bound = (-2 * torch.log(torch.tensor(2.0**-24))).sqrt()
    torch.manual_seed(0)
    assert torch.randn(2_000_000).abs().max() <= bound
    assert stats.norm.sf(float(bound)) * 2 > 0.05 * 1e-7


@pytest.mark.parametrize(
    ("other", "step", "tensor"),
    [(b"b", 0, 0), (b"a", 1, 0), (b"a", 0, 1)],
    ids=["secret", "step", "tensor"],
)
def test_another_secret_step_or_tensor_is_independent(other, step, tensor):
    like = [torch.zeros(90_000), torch.zeros(90_000)]
    first = KeyedNoise(b"a").draw(like, 0)[0]
    second = KeyedNoise(other).draw(like, step)[tensor]
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 5 / 300


def test_keys_of_many_draws_never_meet():
    """Torch's own CPU generator keeps 32 bits of the seed, so two seeds can give one stream."""
    one, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5 + 2**32)
    assert torch.equal(torch.randn(9, generator=one), torch.randn(9, generator=other))
    noise = KeyedNoise(b"a")
    assert len({noise.draw([torch.zeros(1, dtype=torch.float64)], step)[0].item() for step in range(5000)}) == 5000


def test_the_global_seed_plays_no_part_and_stays():
    torch.manual_seed(0)
    first = KeyedNoise(b"a").draw(WEIGHTS, 3)
    following = torch.rand(1)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, KeyedNoise(b"a").draw(WEIGHTS, 3), strict=True))
    torch.manual_seed(0)
    assert torch.equal(following, torch.rand(1))


def test_the_secret_cannot_be_saved_or_shown():
    noise = KeyedNoise(b"do not tell")
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="holds a secret"):
            attempt(noise)
    assert "do not tell" not in repr(noise)


def test_secrets_are_fresh_and_rank_zeros():
    assert shared_secret(lambda own: own) != shared_secret(lambda own: own)
    assert shared_secret(lambda own: b"of rank 0") == b"of rank 0"
    assert shared_secret(lambda own: own, seed=1) == shared_secret(lambda own: own, seed=1)
