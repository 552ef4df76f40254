"""Brushes for cartoon dermoscopy images: skin, lesion, hair and the artefacts photographed beside lesions.

Lengths are in *units*: 1/64 of the image side, so a picture looks the same at every size. Every brush takes
its own random generator and draws the same numbers whatever it is asked to paint, so two pictures that differ
in one respect (the class, an artefact) share everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

Field = NDArray[np.float64]

UNITS = 64
"""Units of length along one side of the image."""

REACH = 8.0
"""Ruler, ink and patch end this many units from the lesion, so that a disk of that half-width covers them."""

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


class Artefact(IntEnum):
    """Type of an artefact, as it stands in the artefact mask (0 = none)."""

    RULER = 1
    INK = 2
    PATCH = 3
    DARK_CORNER = 4
    HAIR = 5


@dataclass(frozen=True)
class Stroke:
    """Something opaque in the picture.

    Args:
        alpha: opacity in [0, 1], ``[size, size]``.
        colour: red, green, blue in [0, 1].
    """

    alpha: Field
    colour: Field

    def over(self, image: Field) -> Field:
        """Paint the stroke over an image ``[size, size, 3]``."""
        return image + self.alpha[..., None] * (self.colour - image)


@dataclass(frozen=True)
class Lesion:
    """A pigmented spot.

    Args:
        mask: its pixels, ``[size, size]`` bool.
        density: optical density in red, green and blue, ``[size, size, 3]``, 0 far from the lesion.
        centre: its (x, y) in units.
    """

    mask: NDArray[np.bool_]
    density: Field
    centre: tuple[float, float]


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Field, Field]:
    """Coordinates x and y of the pixel centres in units, each ``[size, size]``.

    Example:
        >>> grid(2)[0].tolist()
        [[16.0, 48.0], [16.0, 48.0]]
    """
    axis = (np.arange(size) + 0.5) * (UNITS / size)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


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
    x, y = grid(size)
    squared = (x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2
    return np.asarray(np.exp(-((squared / radii**2) ** 2)).sum(axis=-1))


def _coverage(distance: Field, width: float, size: int) -> Field:
    """Anti-aliased opacity of a line of ``width`` units at ``distance`` units from its middle.

    Faint rims are cut, so that a mask of the non-zero pixels holds each pixel that the stroke changes.
    """
    alpha = np.clip(0.5 + (width / 2 - distance) * (size / UNITS), 0.0, 1.0)
    return np.where(alpha < 0.3, 0.0, alpha)


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
    x, y = grid(size)
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
    return Lesion(from_centre < border, density, (float(cx), float(cy)))


def draw_hair(rng: Generator, size: int) -> Stroke:
    """Dark arcs across the whole picture, over the lesion too."""
    x, y = grid(size)
    alpha = np.zeros((size, size))
    lean = rng.uniform(0.0, np.pi)
    for _ in range(rng.integers(2, 6)):
        angle, bend = lean + rng.normal(0.0, 0.35), rng.uniform(40.0, 160.0)
        px, py = rng.uniform(8.0, UNITS - 8.0, 2)
        arc = np.hypot(x - px - bend * np.cos(angle), y - py - bend * np.sin(angle)) - bend
        alpha = np.maximum(alpha, 0.85 * _coverage(np.abs(arc), rng.uniform(0.7, 1.2), size))
    return Stroke(alpha, np.array([0.17, 0.11, 0.08]) * rng.uniform(0.7, 1.6))


def _ruler(rng: Generator, size: int, lesion: Lesion, distance: Field, towards: float) -> Stroke:
    x, y = grid(size)
    along = y * np.cos(towards) - x * np.sin(towards)
    out = x * np.cos(towards) + y * np.sin(towards)
    out = out - out[lesion.mask].max() - rng.uniform(1.5, 2.5)
    pitch = rng.uniform(2.7, 3.4)
    nearest = np.round(along / pitch)
    reach = np.where(nearest % 5 == 0, 4.5, 3.0)
    ticks = np.hypot(along - nearest * pitch, np.maximum(np.abs(out - reach / 2) - reach / 2, 0.0))
    alpha = np.maximum(_coverage(np.abs(out), 1.0, size), _coverage(ticks, 1.0, size))
    return Stroke(alpha, np.full(3, rng.uniform(0.05, 0.18)))


def _ink(rng: Generator, size: int, lesion: Lesion, distance: Field, towards: float) -> Stroke:
    x, y = grid(size)
    angle = np.arctan2(y - lesion.centre[1], x - lesion.centre[0])
    turn = (angle - towards + np.pi) % (2 * np.pi) - np.pi
    wobble = rng.uniform(0.4, 0.9) * np.cos(rng.uniform(4.0, 7.0) * turn + rng.uniform(0.0, 2 * np.pi))
    alpha = _coverage(np.abs(distance - rng.uniform(3.5, 5.0) - wobble), rng.uniform(1.6, 2.6), size)
    alpha = np.where(np.abs(turn) < rng.uniform(0.6, 1.2), 0.9 * alpha, 0.0)
    return Stroke(alpha, np.array([0.26, 0.14, 0.50]) + rng.uniform(-0.08, 0.08, 3))


def _patch(rng: Generator, size: int, lesion: Lesion, distance: Field, towards: float) -> Stroke:
    x, y = grid(size)
    radius, gap = rng.uniform(2.9, 3.5), rng.uniform(1.2, 1.8)
    away = np.array([np.cos(towards), np.sin(towards)])
    shadow = x * away[0] + y * away[1]
    step = shadow[lesion.mask].max() - np.dot(lesion.centre, away) + gap + radius
    px, py = np.asarray(lesion.centre) + step * away
    hues = np.array([[0.95, 0.80, 0.10], [0.10, 0.65, 0.30], [0.10, 0.45, 0.85], [0.95, 0.45, 0.10]])
    colour = hues[rng.integers(len(hues))] + rng.uniform(-0.05, 0.05, 3)
    return Stroke(_coverage(np.hypot(x - px, y - py), 2 * radius, size), colour)


def _dark_corner(rng: Generator, size: int, lesion: Lesion, distance: Field, towards: float) -> Stroke:
    """The rim of the lens: beyond a wide circle close to the lesion, the nearest corner is black."""
    x, y = grid(size)
    side = np.sign(np.asarray(lesion.centre) - UNITS / 2) * UNITS / 2 + UNITS / 2 - np.asarray(lesion.centre)
    away = side / np.hypot(*side)
    shadow = x * away[0] + y * away[1]
    radius = rng.uniform(0.9, 1.2) * UNITS
    step = shadow[lesion.mask].max() - np.dot(lesion.centre, away) + rng.uniform(1.0, 2.0) - radius
    px, py = np.asarray(lesion.centre) + step * away
    alpha = 0.95 * (1.0 - _coverage(np.hypot(x - px, y - py), 2 * radius, size))
    return Stroke(alpha, np.full(3, rng.uniform(0.01, 0.06)))


_BRUSHES: dict[Artefact, Callable[[Generator, int, Lesion, Field, float], Stroke]] = {
    Artefact.RULER: _ruler,
    Artefact.INK: _ink,
    Artefact.PATCH: _patch,
    Artefact.DARK_CORNER: _dark_corner,
}


def draw_beside(rng: Generator, size: int, lesion: Lesion, artefact: Artefact) -> Stroke:
    """An artefact beside a lesion, on its side towards the middle of the image (a dark corner: away from it).

    It never covers the lesion, and ends ``REACH`` units from it (a dark corner: at the corner).

    Args:
        rng: source of randomness.
        size: image side in pixels.
        lesion: what the artefact lies beside.
        artefact: its type; hair has its own brush, :func:`draw_hair`.
    """
    distance = np.asarray(distance_transform_edt(~lesion.mask)) * (UNITS / size)
    middle = np.arctan2(UNITS / 2 - lesion.centre[1], UNITS / 2 - lesion.centre[0])
    stroke = _BRUSHES[artefact](rng, size, lesion, distance, float(middle + rng.uniform(-1.2, 1.2)))
    reach = np.inf if artefact is Artefact.DARK_CORNER else REACH
    return Stroke(np.where((distance > 0) & (distance <= reach), stroke.alpha, 0.0), stroke.colour)
