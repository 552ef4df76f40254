"""Random words: those of AES in counter mode, in a row, whatever the pieces they are asked for in."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from erode.callbacks.noise import keystream
from erode.callbacks.noise.keystream import KeyStream

KEY = b"sixteen bytes of"


def test_words_are_encrypted_counters():
    """By the definition of the mode: block i is AES of the number i."""
    block_cipher = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    blocks = b"".join(block_cipher.update(counter.to_bytes(16, "big")) for counter in range(50))
    assert KeyStream(KEY).words(100).tobytes() == blocks


@pytest.mark.parametrize("counts", [(1, 2, 3, 94), (0, 100), (99, 1)])
def test_the_stream_goes_on(counts):
    stream = KeyStream(KEY)
    assert np.array_equal(np.concatenate([stream.words(count) for count in counts]), KeyStream(KEY).words(100))


def test_more_than_one_piece_of_zeros(monkeypatch):
    whole = KeyStream(KEY).words(1000)
    monkeypatch.setattr(keystream, "_ZEROS", memoryview(bytes(56)))
    assert np.array_equal(KeyStream(KEY).words(1000), whole)


def test_uniform_numbers_fill_the_unit_interval():
    drawn = KeyStream(KEY).uniform(200_000)
    assert 0 <= drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 4 / (12 * 200_000) ** 0.5
