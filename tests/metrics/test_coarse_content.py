"""The ladder of Saab et al. measured, beside the closed form at the geometry of their recipe; identities and traps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.batch import UNKNOWN_ARTEFACT
from erode.datamodules import SaabSynthetic
from erode.masks import BoundingBox, DiskDilation, SpecificityWindow
from erode.metrics import CoarseContent, coarse_variance, spurious_information_closed_form

WINDOWS = [SpecificityWindow(r) for r in (1, 2, 4, 8, 10, 20)]
RUNGS = [*WINDOWS, BoundingBox(3), DiskDilation(4), DiskDilation(2), DiskDilation(0)]


def box_sums(array, side):
    """Sum over each window of a side, valid positions only."""
    sums = np.pad(array.astype(float).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]


def geometry(coarsening, size=40, lesion=8, artefact=12):
    """Exact γ and P(S=1|Y=0, Ỹ=1) of the recipe: all places of the lesion, and of the artefact disjoint from it.

    By symmetry the lesion goes over one quarter of the image.
    """
    places = size - lesion + 1
    half = (places + 1) // 2
    lesions = coarse = artefacts = 0.0
    for i in range(half):
        for j in range(half):
            weight = (1 + (2 * i + 1 != places)) * (1 + (2 * j + 1 != places))
            mask = np.zeros((size, size), dtype=bool)
            mask[i : i + lesion, j : j + lesion] = True
            free = box_sums(mask, artefact) == 0  # upper left corners of disjoint artefacts
            covered = box_sums(np.pad(free, artefact - 1), artefact)  # how many of them cover each pixel
            region = coarsening.region(mask)
            lesions += weight * free.sum() * lesion**2
            coarse += weight * free.sum() * region.sum()
            artefacts += weight * covered[region & ~mask].sum()
    return lesions / coarse, artefacts / max(coarse - lesions, 1.0)


def content_of(data, coarsening, **options):
    arrays = [data.read(case) for case in data.part("train")]
    metric = CoarseContent(**options)
    for part in (arrays[:70], arrays[70:]):
        image, mask, artefact = (
            torch.from_numpy(np.stack([getattr(a, k) for a in part])) for k in ("image", "mask", "artefact")
        )
        coarse = torch.from_numpy(np.stack([coarsening(a.mask) for a in part]))
        metric.update(image, mask, coarse, artefact)
    return metric.result()


@pytest.fixture(scope="module")
def saab():
    return SaabSynthetic()


@pytest.mark.parametrize("coarsening", RUNGS, ids=str)
def test_closed_form_and_measured_ladder_agree_within_the_interval(coarsening, saab):
    content, (gamma, w) = content_of(saab, coarsening), geometry(coarsening)
    expected = float(spurious_information_closed_form(gamma, w))
    low, high = content.interval
    assert low - 1e-9 <= expected <= high + 1e-9  # where every image holds the same counts the interval is a point
    assert content.tightness == pytest.approx(gamma, rel=0.04)
    assert content.information == pytest.approx(content.closed_form, abs=1e-12)
    assert content.variance == pytest.approx(coarse_variance(gamma, w, 2, -10, 1), rel=0.2)


def test_their_assumption_fails_on_their_recipe(saab):
    """Blocks do not overlap, so artefacts are rarer beside the lesion: w of all background promises too much."""
    content = content_of(saab, SpecificityWindow(20))
    assert content.artefact_share == pytest.approx(144 / (1600 - 64))  # b²/(n²−a²), as they write
    assert content.published == pytest.approx(0.0355, abs=2e-4)  # their ladder at r = 20
    assert content.artefact_share_inside < 0.2 * content.artefact_share
    assert content.interval[1] < 0.4 * content.published


def test_information_rises_before_it_falls(saab):
    label, window, exact = (content_of(saab, c, bootstrap=300) for c in (RUNGS[0], RUNGS[2], RUNGS[-1]))
    assert window.interval[0] > label.interval[1] > 0
    assert exact.information == exact.interval[1] == exact.closed_form == 0
    assert label.variance > exact.variance


def maps(seed, images=6, size=9, overlap=False):
    """Random nested masks, and artefacts that avoid the lesion unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda rate: torch.rand(images, size, size, generator=generator) < rate  # noqa: E731
    mask = draw(0.2)
    coarse = mask | draw(0.4)
    artefact = draw(0.3) if overlap else draw(0.3) & ~mask
    image = 100 + torch.randn(images, 2, size, size, generator=generator)
    return image, mask.long(), coarse.long(), artefact.to(torch.uint8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_without_overlap_counting_and_closed_form_are_one(seed):
    image, mask, coarse, artefact = maps(seed)
    metric = CoarseContent(bootstrap=20)
    metric.update(image, mask, coarse, artefact)
    content = metric.result()
    some = mask.flatten(1).any(1)
    image, mask, coarse, artefact = image[some], mask[some], coarse[some] > 0, artefact[some]
    assert content.information == pytest.approx(content.closed_form, abs=1e-12)
    assert content.tightness == pytest.approx((mask.sum() / coarse.sum()).item())
    assert content.artefact_share == pytest.approx(artefact[mask == 0].double().mean().item())
    pixels = image.double().movedim(1, -1)[coarse].numpy()
    assert content.variance == pytest.approx(pixels.var(axis=0).mean(), rel=1e-9)


def test_overlap_shows_and_takes_the_closed_form_away():
    metric = CoarseContent(bootstrap=200)
    metric.update(*maps(3, images=60, overlap=True))
    content = metric.result()
    assert content.overlap == pytest.approx(0.3, abs=0.05)
    assert content.interval[0] == 0  # artefacts that ignore the lesion
    assert content.information < 0.001 < content.closed_form


def test_artefacts_that_nobody_marked_leave_tightness_and_variance():
    image, mask, coarse, artefact = maps(5)
    metric = CoarseContent(bootstrap=20)
    metric.update(image, mask, coarse, torch.full_like(artefact, UNKNOWN_ARTEFACT))
    content = metric.result()
    assert 0 < content.tightness < 1
    assert content.variance > 0
    for value in (content.information, *content.interval, content.closed_form, content.published, content.overlap):
        assert np.isnan(value)


def test_one_image_has_a_value_and_no_interval():
    metric = CoarseContent(bootstrap=20)
    metric.update(*maps(5, images=1))
    content = metric.result()
    assert content.information > 0
    assert np.isnan(content.interval).all()


def test_copies_and_healthy_images_do_not_count():
    image, mask, coarse, artefact = maps(7)
    one, other = CoarseContent(bootstrap=20), CoarseContent(bootstrap=20)
    one.update(image, mask, coarse, artefact)
    healthy = [value[:1] for value in (image, torch.zeros_like(mask), torch.zeros_like(coarse), artefact)]
    twice = [
        torch.cat([value, value[:2], extra])
        for value, extra in zip((image, mask, coarse, artefact), healthy, strict=True)
    ]
    other.update(*twice, counted=torch.tensor([True] * 6 + [False] * 2 + [True]))
    assert one.result() == other.result()


def test_without_a_lesion_nothing_is_defined():
    metric = CoarseContent(bootstrap=5)
    assert metric.compute().isnan()
    nothing = torch.zeros(2, 4, 4, dtype=torch.long)
    metric.update(torch.rand(2, 3, 4, 4), nothing, nothing, nothing)
    content = vars(metric.result())
    assert all(np.isnan(value).all() for value in content.values())


def test_intervals_resample_patients():
    """Copies of an image that are one cluster tell as much as the image alone, whatever their numbers and order."""
    pictures = maps(4, images=8)
    alone, numbered, clustered = (CoarseContent(bootstrap=100) for _ in range(3))
    alone.update(*pictures)
    numbered.update(*pictures, cluster=torch.arange(8).flip(0) + 2**62)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    copies = (x.repeat(3, *[1] * (x.ndim - 1))[order] for x in pictures)
    clustered.update(*copies, cluster=torch.arange(8).repeat(3)[order])
    expected = alone.result()
    assert numbered.result() == expected
    assert clustered.result().interval == pytest.approx(expected.interval, abs=1e-12)
    assert clustered.result().information == pytest.approx(expected.information, abs=1e-12)
