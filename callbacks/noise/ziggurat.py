"""Standard normals from a stream of random words, many at a time."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, ndtri

from .keystream import Doubles, KeyStream, Words

_LAYERS = 1024
_START = 4.038849846109504522714423
"""Where the tail begins: layers of equal area that start here end at the peak. The tests solve for it."""


def _edges() -> Doubles:
    """Right edge of each layer, outermost first, and 0; the first makes up for the tail."""
    height = math.exp(-0.5 * _START**2)
    area = _START * height + math.sqrt(math.pi / 2) * math.erfc(_START / math.sqrt(2))
    edges = [area / height, _START]
    while len(edges) < _LAYERS:
        height += area / edges[-1]
        edges.append(math.sqrt(-2 * math.log(height)))
    return np.array([*edges, 0.0])


_EDGES = _edges()
_STEP = _EDGES[:-1] * 2.0**-53
_SURE = _EDGES[1:].copy()
_HEIGHTS = np.exp(-0.5 * _EDGES**2)
_TAIL = float(ndtr(-_START))


def standard_normal(stream: KeyStream, count: int) -> Doubles:
    """Independent standard normals.

    Any ziggurat keeps most numbers at once and settles a few at the rims; the usual one, as NumPy's, draws one number
    after the other, and its branch on a random sign cannot be foreseen by any processor; this one has no branch. Exact
    but for rounding: 54 bits, not those that choose the layer, place a number in its layer, so that neighbours lie
    2^-52 of the layer's half-width apart. The tail is drawn by its own quantile function and ends at 9.4 σ; beyond lie
    1e-20 of the mass.

    Args:
        stream: gives the bits: 64 of each number, and some more for one of 500.
        count: how many; five arrays of as many doubles are held at once.

    Source:
        Marsaglia and Tsang 2000; Doornik 2005 (separate bits for layer and place).

    Example:
        >>> drawn = standard_normal(KeyStream(b"sixteen bytes of"), 100_000)
        >>> bool(abs(drawn.mean()) < 0.02), bool(abs(drawn.std() - 1) < 0.02)
        (True, True)
    """
    words = stream.words(count)
    layer = words & (_LAYERS - 1)
    words >>= 10
    words |= 1  # odd: as many below zero as above, and never zero
    drawn = words.astype(np.float64)
    drawn *= _STEP.take(layer, mode="clip")  # clip only spares the check: no index is outside
    unsure = np.flatnonzero(np.abs(drawn) >= _SURE.take(layer, mode="clip"))
    if len(unsure):
        drawn[unsure] = _settle(stream, drawn[unsure], layer[unsure])
    return drawn


def _settle(stream: KeyStream, drawn: Doubles, layer: Words) -> Doubles:
    """Numbers at the rim of their layer: kept below the curve, else drawn anew; those of the outermost are the tail."""
    count = len(drawn)
    height = _HEIGHTS[layer] + (_HEIGHTS[layer + 1] - _HEIGHTS[layer]) * stream.uniform(count)
    tail = np.copysign(ndtri(_TAIL * (1 - stream.uniform(count))), drawn)
    kept = np.where(height < np.exp(-0.5 * drawn**2), drawn, standard_normal(stream, count))
    return np.where(layer == 0, tail, kept)
