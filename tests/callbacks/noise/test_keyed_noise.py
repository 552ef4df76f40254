"""Noise: Gaussian, independent over everything it should be, a function of the secret alone."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from erode.callbacks.noise.chunks import Chunk, cut
from erode.callbacks.noise.draws import CPUDraw, DeviceDraw
from erode.callbacks.noise.keyed_noise import KeyedNoise, shared_secret
from erode.callbacks.noise.keystream import KeyStream
from erode.callbacks.noise.ziggurat import standard_normal

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


@pytest.fixture
def many_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_plays_no_part(many_threads):
    like = [torch.zeros(7), torch.zeros(200_000), torch.zeros(()), torch.zeros(3, 0), torch.zeros(40_000)]
    by_three = KeyedNoise(b"a").draw(like, 0)
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(by_three, KeyedNoise(b"a").draw(like, 0), strict=True))


def test_each_chunk_is_the_stream_of_its_key():
    """Nothing of the chunk before it, and all of the key."""
    keys = [bytes(15) + b"a", b"a" + bytes(15), bytes(16)]
    tensors = [torch.zeros(100, dtype=torch.float64) for _ in keys]
    CPUDraw([Chunk([tensor]) for tensor in tensors], keys, 1.0).add_()
    for key, tensor in zip(keys, tensors, strict=True):
        assert np.array_equal(tensor.numpy(), standard_normal(KeyStream(key), 100))
    assert len({tensor[0].item() for tensor in tensors}) == len(keys)


def test_every_number_gets_noise_of_its_own_whatever_the_memory_format():
    """Also across chunks, on the rim of which a tensor may be cut, and in tensors whose numbers have gaps."""
    gaps = torch.zeros(70, 70, dtype=torch.float64)
    like = [
        torch.zeros(40_001, dtype=torch.float64),
        torch.zeros(30, 20, 9, 9, dtype=torch.float64).to(memory_format=torch.channels_last),
        gaps[::2, ::2],
        gaps[0, 1::2],
        torch.zeros(300, dtype=torch.float32),
    ]
    KeyedNoise(b"a").add_(like, 0, 2.0)
    drawn = torch.cat([tensor.flatten().double() for tensor in like])
    assert len(drawn.unique()) == len(drawn)
    assert gaps[1::2].count_nonzero() == 0
    assert stats.kstest(drawn.numpy() / 2, "norm").pvalue > 1e-3


def test_noise_is_added_in_double_precision_and_rounded_once():
    """On both paths: where noise is rounded by itself, the sum is no function of weights plus noise."""
    weights = [torch.rand(3_000), torch.rand(50, 3)]
    before = torch.cat([w.flatten() for w in weights]).double()
    on_cpu, on_device = ([w.clone() for w in weights] for _ in range(2))
    CPUDraw(cut(on_cpu, 2**18), [bytes(16)], 0.3).add_()
    drawn = torch.from_numpy(standard_normal(KeyStream(bytes(16)), len(before)))
    assert torch.equal(torch.cat([w.flatten() for w in on_cpu]), (before + drawn * 0.3).float())
    for size in (2**18, 100):  # several parts in a chunk, and one
        chunks = cut(on_device, size)
        DeviceDraw(chunks, torch.Generator().manual_seed(5), 0.3).add_()
        generator = torch.Generator().manual_seed(5)
        drawn = [torch.empty(c.numel, dtype=torch.float64).normal_(generator=generator) for c in chunks]
        assert torch.equal(
            torch.cat([w.flatten() for w in on_device]), torch.add(before, torch.cat(drawn), alpha=0.3).float()
        )
        on_device = [w.clone() for w in weights]


def test_a_device_draws_from_torchs_generator():
    """The path of a GPU, walked on the CPU: the same bits each time, Gaussian, and every number its own."""
    first, second = ([torch.zeros(300_000), torch.zeros(9, dtype=torch.float64)] for _ in range(2))
    for tensors in (first, second):
        DeviceDraw(cut(tensors, 2**18), torch.Generator().manual_seed(5), 3.0).add_()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert stats.kstest(first[0].numpy() / 3, "norm").pvalue > 1e-3
    assert len(torch.cat([tensor.double() for tensor in first]).unique()) > 299_000  # single precision repeats a few


def test_memory_that_changed_its_meaning_is_cut_again():
    """Chunks of the draw before are kept only as long as they still are what is to get the noise."""
    kept, weight = KeyedNoise(b"a"), torch.zeros(30, 40)
    kept.add_([weight], 0, 1.0)
    for following in (weight.zero_().t(), torch.zeros(30, 40), torch.zeros(9)):
        kept.add_([following], 1, 1.0)
        assert torch.equal(following, KeyedNoise(b"a").draw([following], 1)[0])


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
