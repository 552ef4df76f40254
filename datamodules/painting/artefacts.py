"""Brushes for what gets photographed with a lesion or an organ: ruler, ink, patch, dark corner, hair, tube.

The first four lie beside a :class:`~.brushes.Spot` and never cover it; hair and tube run across.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from scipy.ndimage import distance_transform_edt

from .brushes import UNITS, Artefact, Field, Spot, Stroke, coverage, extent, grid

REACH = 8.0
"""Ruler, ink and patch end this many units from the spot, so that a disk of that half-width covers them."""

ROOM = 12.0
"""Less than this of an artefact, in square units, is no artefact to see."""


def draw_hair(rng: Generator, shape: tuple[int, ...]) -> Stroke:
    """Dark arcs across the whole picture ``[height, width]``, over the spot too."""
    x, y = grid(shape)
    alpha = np.zeros(shape)
    lean = rng.uniform(0.0, np.pi)
    for _ in range(rng.integers(2, 6)):
        angle, bend = lean + rng.normal(0.0, 0.35), rng.uniform(40.0, 160.0)
        px, py = rng.uniform(8.0, extent(shape) - 8.0)
        arc = np.hypot(x - px - bend * np.cos(angle), y - py - bend * np.sin(angle)) - bend
        alpha = np.maximum(alpha, 0.85 * coverage(np.abs(arc), rng.uniform(0.7, 1.2)))
    return Stroke(alpha, np.array([0.17, 0.11, 0.08]) * rng.uniform(0.7, 1.6))


def _ruler(rng: Generator, spot: Spot, distance: Field, towards: float) -> Stroke:
    x, y = grid(spot.mask.shape)
    along = y * np.cos(towards) - x * np.sin(towards)
    out = x * np.cos(towards) + y * np.sin(towards)
    out = out - out[spot.mask].max() - rng.uniform(1.5, 2.5)
    pitch = rng.uniform(2.7, 3.4)
    nearest = np.round(along / pitch)
    reach = np.where(nearest % 5 == 0, 4.5, 3.0)
    ticks = np.hypot(along - nearest * pitch, np.maximum(np.abs(out - reach / 2) - reach / 2, 0.0))
    alpha = np.maximum(coverage(np.abs(out), 1.0), coverage(ticks, 1.0))
    return Stroke(alpha, np.full(3, rng.uniform(0.05, 0.18)))


def _ink(rng: Generator, spot: Spot, distance: Field, towards: float) -> Stroke:
    x, y = grid(spot.mask.shape)
    angle = np.arctan2(y - spot.centre[1], x - spot.centre[0])
    turn = (angle - towards + np.pi) % (2 * np.pi) - np.pi
    wobble = rng.uniform(0.4, 0.9) * np.cos(rng.uniform(4.0, 7.0) * turn + rng.uniform(0.0, 2 * np.pi))
    alpha = coverage(np.abs(distance - rng.uniform(3.5, 5.0) - wobble), rng.uniform(1.6, 2.6))
    alpha = np.where(np.abs(turn) < rng.uniform(0.6, 1.2), 0.9 * alpha, 0.0)
    return Stroke(alpha, np.array([0.26, 0.14, 0.50]) + rng.uniform(-0.08, 0.08, 3))


def _patch(rng: Generator, spot: Spot, distance: Field, towards: float) -> Stroke:
    x, y = grid(spot.mask.shape)
    radius, gap = rng.uniform(2.9, 3.5), rng.uniform(1.2, 1.8)
    away = np.array([np.cos(towards), np.sin(towards)])
    shadow = x * away[0] + y * away[1]
    step = shadow[spot.mask].max() - np.dot(spot.centre, away) + gap + radius
    px, py = np.asarray(spot.centre) + step * away
    hues = np.array([[0.95, 0.80, 0.10], [0.10, 0.65, 0.30], [0.10, 0.45, 0.85], [0.95, 0.45, 0.10]])
    colour = hues[rng.integers(len(hues))] + rng.uniform(-0.05, 0.05, 3)
    return Stroke(coverage(np.hypot(x - px, y - py), 2 * radius), colour)


def _dark_corner(rng: Generator, spot: Spot, distance: Field, towards: float) -> Stroke:
    """The rim of the lens: beyond a wide circle close to the spot, the nearest corner is black."""
    x, y = grid(spot.mask.shape)
    centre, size = np.asarray(spot.centre), extent(spot.mask.shape)
    side = np.where(centre < size / 2, 0.0, size) - centre
    away = side / np.hypot(*side)
    shadow = x * away[0] + y * away[1]
    radius = rng.uniform(0.9, 1.2) * UNITS
    step = shadow[spot.mask].max() - np.dot(centre, away) + rng.uniform(1.0, 2.0) - radius
    px, py = centre + step * away
    alpha = 0.95 * (1.0 - coverage(np.hypot(x - px, y - py), 2 * radius))
    return Stroke(alpha, np.full(3, rng.uniform(0.01, 0.06)))


_BRUSHES: dict[Artefact, Callable[[Generator, Spot, Field, float], Stroke]] = {
    Artefact.RULER: _ruler,
    Artefact.INK: _ink,
    Artefact.PATCH: _patch,
    Artefact.DARK_CORNER: _dark_corner,
}


def draw_tube(rng: Generator, spot: Spot) -> Stroke:
    """A radio-opaque tube that enters at one side and bends towards the spot, over it too: bright walls, grey lumen."""
    x, y = grid(spot.mask.shape)
    width, height = extent(spot.mask.shape)
    target = np.asarray(spot.centre) + rng.normal(0.0, 3.0, 2)
    entry = np.array([width if target[0] > width / 2 else 0.0, rng.uniform(0.55, 0.95) * height])
    bend = np.array([entry[0] + 0.6 * (target[0] - entry[0]), entry[1]]) + rng.normal(0.0, 3.0, 2)
    t = np.linspace(0.0, 1.0, 65)[:, None]
    line = (1 - t) ** 2 * entry + 2 * t * (1 - t) * bend + t**2 * target
    from_line = np.full(spot.mask.shape, np.inf)
    for start, end in itertools.pairwise(line):
        way = end - start
        part = np.clip(((x - start[0]) * way[0] + (y - start[1]) * way[1]) / max(way @ way, 1e-9), 0.0, 1.0)
        from_line = np.minimum(from_line, np.hypot(x - start[0] - part * way[0], y - start[1] - part * way[1]))
    bore = rng.uniform(1.8, 2.6)
    walls = coverage(np.abs(from_line - bore / 2), 0.8)
    alpha = np.maximum(0.8 * walls, 0.45 * coverage(from_line, bore))
    return Stroke(alpha, np.full(3, rng.uniform(0.88, 0.98)))


def draw_beside(rng: Generator, spot: Spot, artefact: Artefact) -> Stroke:
    """An artefact beside a spot, on its side towards the middle of the image (a dark corner: away from it).

    It never covers the spot, and ends ``REACH`` units from it (a dark corner: at the corner).

    Args:
        rng: source of randomness.
        spot: what the artefact lies beside.
        artefact: its type; hair and tube have brushes of their own.
    """
    towards, distance = _to_the_middle(spot) + rng.uniform(-1.2, 1.2), _distance(spot)
    return _outside(_BRUSHES[artefact](rng, spot, distance, towards), distance, artefact)


def draw_where_there_is_room(key: Sequence[int], spot: Spot, artefact: Artefact) -> Stroke:
    """An artefact beside a spot of any size at any place, on a side where the image has room for it.

    Eight sides are tried, the first at random; the first counts on which at least half as much of the artefact is
    seen as on the best. Where none has room, for the spot all but fills the image, the artefact lies over it.

    Args:
        key: non-negative integers that seed it; the same artefact is tried on every side.
        spot: what the artefact lies beside.
        artefact: its type; hair and tube have brushes of their own.
    """
    places, brush = SeedSequence(tuple(key)).spawn(2)
    rng, distance = Generator(PCG64(places)), _distance(spot)
    sides = rng.uniform(0.0, 2 * np.pi) + np.arange(8) * np.pi / 4
    whole = (_BRUSHES[artefact](Generator(PCG64(brush)), spot, distance, side) for side in sides)
    strokes = [_outside(stroke, distance, artefact) for stroke in whole]
    areas = [np.count_nonzero(stroke.alpha) * (UNITS / min(spot.mask.shape)) ** 2 for stroke in strokes]
    if max(areas) < ROOM:
        return draw_where_there_is_room((*key, 0), imaginary_spot(rng, spot.mask.shape), artefact)
    return strokes[next(n for n, area in enumerate(areas) if 2 * area >= max(areas))]


def imaginary_spot(rng: Generator, shape: tuple[int, ...]) -> Spot:
    """A disk about the middle of an image ``[height, width]`` that shows nothing to lie beside."""
    x, y = grid(shape)
    cx, cy = rng.uniform(0.35, 0.65, 2) * extent(shape)
    return Spot(np.hypot(x - cx, y - cy) < rng.uniform(8.0, 12.0), (float(cx), float(cy)))


def _to_the_middle(spot: Spot) -> float:
    width, height = extent(spot.mask.shape)
    return float(np.arctan2(height / 2 - spot.centre[1], width / 2 - spot.centre[0]))


def _distance(spot: Spot) -> Field:
    """Distance from the spot in units, ``[height, width]``."""
    distance: Field = distance_transform_edt(~spot.mask) * (UNITS / min(spot.mask.shape))
    return distance


def _outside(stroke: Stroke, distance: Field, artefact: Artefact) -> Stroke:
    """The part of a stroke that lies beside the spot and within reach."""
    reach = np.inf if artefact is Artefact.DARK_CORNER else REACH
    return Stroke(np.where((distance > 0) & (distance <= reach), stroke.alpha, 0.0), stroke.colour)
