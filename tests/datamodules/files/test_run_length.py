"""Runs against a decoder that walks pixel by pixel, and every malformed line refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.datamodules.files.run_length import decode_runs

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def encode(mask):
    """The challenge's encoder, in words: walk down the columns and count since the last change."""
    words, count, last = [], 0, False
    for value in mask.T.ravel():
        if value != last:
            words, count, last = [*words, str(count)], 0, bool(value)
        count += 1
    return " ".join([*words, str(count)] if last else words) or "-1"


@settings(deadline=None)
@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), st.integers(0, 2 ** (shape[0] * shape[1]) - 1))))
def test_decoding_undoes_encoding(scene):
    (rows, columns), number = scene
    mask = np.array([number >> bit & 1 for bit in range(rows * columns)], bool).reshape(rows, columns)
    assert np.array_equal(decode_runs(encode(mask), (rows, columns)), mask)


def test_runs_are_relative_and_go_down_the_columns():
    mask = decode_runs("2 2 3 1", (4, 3))
    assert mask.tolist() == [[False, False, False], [False, False, False], [True, False, False], [True, True, False]]
    assert not decode_runs(" -1", (4, 3)).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the runs are empty: write -1"),
        ("5", "1 numbers are no pairs"),
        ("1 2 3", "3 numbers are no pairs of gap and length: the line may be cut off"),
        ("1 2 x 1", "'x' is no count of pixels"),
        ("1 -2", "'-2' is no count of pixels"),
        ("-1 3", "'-1' is no count of pixels"),
        ("1.0 2", r"'1\.0' is no count"),
        ("1 0", "a run has length 0"),
        ("9 4", "the runs end beyond the 12 pixels of the image: gaps count from the end of the run before"),
        ("1 2 4 3 8 2", "the runs end beyond the 12 pixels"),  # starts counted from the first pixel
        ("1 99999999999", "the runs end beyond"),
        ("1 " + "9" * 400, "'99999999999999999999' is no count"),
        ("1 1 " * 10**5, "the runs end beyond"),
        ("² 1", "is no count of pixels"),
    ],
)
def test_malformed_runs_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        decode_runs(text, (4, 3))


@settings(deadline=None)
@given(st.text(alphabet="0123456789 -.\t", max_size=40), shapes)
def test_any_text_is_a_mask_of_the_image_or_refused(text, shape):
    with contextlib.suppress(ValueError):
        assert decode_runs(text, shape).shape == shape
