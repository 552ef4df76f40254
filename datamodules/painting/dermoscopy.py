"""Brushes for cartoon dermoscopy images: skin and lesion. Lengths are in the units of :mod:`.brushes`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .brushes import UNITS, Field, Spot, grid

MELANIN = np.array([0.45, 0.85, 1.05])
"""Relative absorption of brown pigment in red, green and blue."""

DEEP_MELANIN = np.array([1.1, 0.7, 0.45])
"""The same for pigment deep in the skin, which looks blue-grey: the globules of malignant lesions."""


PIGMENT = (0.15, 0.5)
"""Range of the optical density of a lesion's body."""

LOOKS = (1.2, 4.5)
"""Beta distribution of how malignant a benign lesion looks, from 0 to 1; a malignant one has it mirrored."""

GLOBULES, GLOBULE_DENSITY = 9, 1.0
"""Number of globules in a lesion, and their optical density."""


@dataclass(frozen=True)
class Lesion(Spot):
    """A pigmented spot.

    Args:
        density: optical density in red, green and blue, ``[size, size, 3]``, 0 far from the lesion.
    """

    density: Field


@lru_cache(maxsize=16)
def _cosines(size: int, modes: int) -> Field:
    phase = np.outer((np.arange(size) + 0.5) / size, np.arange(modes))
    basis: Field = np.cos(np.pi * phase) * np.sqrt(2.0)
    basis[:, 0] = 1.0
    return basis


def smooth_noise(rng: Generator, size: int, modes: int) -> Field:
    """Random smooth field of mean 0 and variance 1: normal weights on the lowest ``modes``² cosines."""
    weights = rng.standard_normal((modes, modes))
    weights[0, 0] = 0.0
    basis = _cosines(size, modes)
    return np.asarray(basis @ weights @ basis.T / np.sqrt(modes**2 - 1))


def _spots(size: int, centres: Field, radii: Field) -> Field:
    """Sum of round spots with soft edges: ``centres`` ``[n, 2]`` and ``radii`` ``[n]`` in units."""
    x, y = grid((size, size))
    squared = (x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2
    return np.asarray(np.exp(-((squared / radii**2) ** 2)).sum(axis=-1))


def draw_skin(rng: Generator, size: int, bare: NDArray[np.bool_]) -> Field:
    """Skin of a random tone under uneven light, with freckles where it is ``bare``; ``[size, size, 3]``."""
    light, dark = np.array([0.94, 0.78, 0.69]), np.array([0.66, 0.48, 0.39])
    tone = light + rng.beta(1.2, 2.0) * (dark - light) + 0.02 * rng.standard_normal(3)
    lamp = 1.0 + 0.06 * smooth_noise(rng, size, 3)
    blotches = 1.0 + 0.04 * smooth_noise(rng, size, 10)
    places, radii = rng.uniform(0, UNITS, (10, 2)), rng.uniform(0.9, 2.6, 10)
    shown = rng.integers(2, 11)
    brown = rng.uniform(0.3, 0.7) * bare * _spots(size, places[:shown], radii[:shown])
    return np.asarray(tone * (lamp * blotches)[..., None] * np.exp(-brown[..., None] * MELANIN))


def draw_lesion(rng: Generator, size: int, malignant: bool) -> Lesion:
    """A lesion whose outline is a wavy ellipse.

    Benign lesions are mostly smooth, with brown globules, malignant ones mostly ragged, with blue-grey
    globules; some of either look like the other.

    Args:
        rng: source of randomness.
        size: image side in pixels.
        malignant: which of the two to draw.
    """
    x, y = grid((size, size))
    cx, cy = UNITS / 2 + rng.uniform(-9.0, 9.0, 2)
    radius, stretch, tilt = rng.uniform(8.5, 12.5), rng.uniform(0.0, 0.22), rng.uniform(0.0, np.pi)
    waves, phases = np.arange(3, 10), rng.uniform(0.0, 2 * np.pi, 7)
    benign_look, malignant_look = rng.beta(*LOOKS), rng.beta(*LOOKS[::-1])
    look = malignant_look if malignant else benign_look
    raggedness = rng.uniform(0.5, 1.2) * (0.02 + 0.06 * look)
    amplitudes = raggedness * rng.standard_normal(7) * np.sqrt(3.0 / waves)

    def outline(angle: Field) -> Field:
        ripple = np.cos(angle[..., None] * waves + phases) @ amplitudes
        return np.asarray(radius * np.maximum(1.0 + stretch * np.cos(2 * (angle - tilt)) + ripple, 0.4))

    from_centre, border = np.hypot(x - cx, y - cy), outline(np.arctan2(y - cy, x - cx))
    softness = rng.uniform(0.6, 1.2)
    body = 1.0 / (1.0 + np.exp(np.clip((from_centre - border) / softness, -30.0, 30.0)))
    mottle = 1.0 + 0.15 * smooth_noise(rng, size, 12)
    pigment = rng.uniform(*PIGMENT) * mottle
    angles, depth = rng.uniform(0.0, 2 * np.pi, GLOBULES), np.sqrt(rng.uniform(0.0, 0.7, GLOBULES))
    along = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    places = np.array([cx, cy]) + (depth * outline(angles))[:, None] * along
    spots = np.minimum(_spots(size, places, rng.uniform(1.0, 1.9, GLOBULES)), 1.0)
    globules = GLOBULE_DENSITY * rng.uniform(0.6, 1.2) * spots
    darkness = MELANIN + look * (DEEP_MELANIN - MELANIN)
    density = body[..., None] * (pigment[..., None] * MELANIN + globules[..., None] * darkness)
    return Lesion(from_centre < border, (float(cx), float(cy)), density)
