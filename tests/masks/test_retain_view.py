"""Views: what may be seen is seen, and nothing of the forget set leaks into the retain view."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from erode.batch import FIELDS, NO_PRIOR, Role
from erode.masks import BoundingBox, DiskDilation, PositionPrior, View, ring, serve

QUICK = settings(deadline=None, max_examples=40)
REGIONS = hnp.arrays(np.bool_, (11, 9))
LABELS = st.integers(1, 5)
COARSENINGS = [DiskDilation(2), BoundingBox(1)]


def prior_of(coarsening):
    lesion = np.zeros((24, 24), dtype=int)
    lesion[8:16, 6:18] = 1
    return PositionPrior.fit([(lesion, coarsening(lesion))], coarsening)


PRIORS = st.sampled_from([None, *(prior_of(c) for c in COARSENINGS)])
PICKED = st.sampled_from(COARSENINGS)


def masks(region, label, coarsening):
    fine = region * label
    return fine, coarsening(fine)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@QUICK
@given(REGIONS, REGIONS, LABELS, PICKED, PRIORS)
def test_retain_view_of_a_coarse_image_does_not_know_its_fine_mask(region, other, label, coarsening, prior):
    fine, coarse = masks(region, label, coarsening)
    expected = serve(View.RETAIN, fine, coarse, label, False, prior)
    for changed in (other * label * (coarse != 0), None, coarse, other * (label + 1), np.zeros(3)):
        assert same(serve(View.RETAIN, changed, coarse, label, False, prior), expected)


@QUICK
@given(REGIONS, LABELS, PICKED, PRIORS)
def test_retain_view_of_a_coarse_image_is_made_of_outside_atoms_and_class(region, label, coarsening, prior):
    """Rebuild it from the set of outside pixels, the class and q, which is all that D_r holds."""
    _, coarse = masks(region, label, coarsening)
    outside = coarse == 0
    found = serve(View.RETAIN, None, coarse, label, False, prior)
    assert not found.mask.any()
    np.testing.assert_array_equal(found.coarse, np.where(outside, 0, label))
    np.testing.assert_array_equal(found.role, np.where(outside, Role.RETAIN, Role.UNLABELLED))
    expected = np.full(coarse.shape, NO_PRIOR) if prior is None else prior((~outside).astype(int))
    np.testing.assert_array_equal(found.prior, expected)
    assert (found.prior[outside] == NO_PRIOR).all()


@QUICK
@given(REGIONS, LABELS, st.booleans(), PICKED, PRIORS, st.sampled_from(View))
def test_forget_atoms_occur_in_the_coarse_view_and_the_ideal_alone(region, label, is_fine, coarsening, prior, view):
    fine, coarse = masks(region, label, coarsening)
    if not view.serves(is_fine):
        with pytest.raises(ValueError, match="leave the others out"):
            serve(view, fine, coarse, label, is_fine, prior)
        return
    found = serve(view, fine, coarse, label, is_fine, prior)
    if view is not View.COARSE and (is_fine or view is not View.FINE):
        assert (found.role != Role.FORGET).all()
    if view in (View.FINE, View.FINE_SUBSET):
        np.testing.assert_array_equal(found.role == Role.RETAIN, is_fine | (coarse == 0))
        np.testing.assert_array_equal(found.mask, fine)
    if is_fine:
        assert (found.prior == NO_PRIOR).all()
    np.testing.assert_array_equal(found.coarse, coarse)


@QUICK
@given(REGIONS, LABELS, st.booleans(), PICKED)
def test_forget_set_is_what_the_retain_view_no_longer_says(region, label, is_fine, coarsening):
    """The isomorphism of theory §1: an atom of D is RETAIN iff D_r holds that pixel with the same label."""
    fine, coarse = masks(region, label, coarsening)
    trained = serve(View.COARSE, fine, coarse, label, is_fine)
    kept = serve(View.RETAIN, fine, coarse, label, is_fine)
    held = (kept.role == Role.RETAIN) & (kept.mask == trained.mask)
    np.testing.assert_array_equal(trained.role == Role.RETAIN, held)
    np.testing.assert_array_equal(trained.role == Role.FORGET, ~held)
    np.testing.assert_array_equal(trained.mask, coarse)
    between = ring(fine, coarse)
    assert (trained.role[between] == Role.FORGET).all()  # every ring atom is forgotten, whatever the image
    np.testing.assert_array_equal(trained.role == Role.FORGET, between if is_fine else coarse != 0)


@QUICK
@given(REGIONS, LABELS, st.booleans(), PICKED)
def test_the_ideal_marks_what_the_retain_view_does_not_say(region, label, is_fine, coarsening):
    """A fine mask of C is no retained data either: where it is marked RETAIN, D_r holds the same label."""
    fine, coarse = masks(region, label, coarsening)
    ideal = serve(View.FINE, fine, coarse, label, is_fine)
    kept = serve(View.RETAIN, fine, coarse, label, is_fine)
    held = (kept.role == Role.RETAIN) & (kept.mask == ideal.mask)
    np.testing.assert_array_equal(ideal.role == Role.RETAIN, held)
    np.testing.assert_array_equal(ideal.role == Role.FORGET, ~held)


@QUICK
@given(REGIONS, LABELS, st.sampled_from([np.uint8, np.int32, np.int64]), PRIORS, st.sampled_from(View))
def test_entries_have_the_dtypes_of_a_batch_and_memory_of_their_own(region, label, dtype, prior, view):
    fine, coarse = masks(region, label, COARSENINGS[0])
    fine, coarse = fine.astype(dtype), coarse.astype(dtype)
    found = serve(view, fine, coarse, label, True, prior)
    for key, value in found._asdict().items():
        assert torch.from_numpy(value).dtype == FIELDS[key].dtype
        assert value.shape == region.shape
        assert value.flags.writeable
        assert not np.shares_memory(value, fine)
        assert not np.shares_memory(value, coarse)
    assert not np.shares_memory(found.mask, found.coarse)


def test_an_image_without_pathology_is_background_everywhere():
    empty = np.zeros((4, 5), dtype=int)
    for view in (View.COARSE, View.RETAIN, View.FINE):
        found = serve(view, empty, empty, 0, False, prior_of(COARSENINGS[0]))
        assert not found.mask.any()
        assert (found.role == Role.RETAIN).all()
        assert (found.prior == NO_PRIOR).all()


def test_views_without_a_fine_mask_work_where_they_need_none():
    coarse = np.eye(4, dtype=int)
    for view in (View.COARSE, View.RETAIN):
        serve(view, None, coarse, 1, False)
    for view, is_fine in ((View.FINE, False), *((view, True) for view in View)):
        with pytest.raises(ValueError, match=f"'{view}' needs the fine mask"):
            serve(view, None, coarse, 1, is_fine)


def test_a_class_that_contradicts_the_image_is_refused():
    fine, coarse = np.eye(3, dtype=int), np.ones((3, 3), dtype=int)
    with pytest.raises(ValueError, match="coarse mask holds class 1, but the image is of class 2"):
        serve(View.COARSE, fine, coarse, 2, False)
    with pytest.raises(ValueError, match="fine mask holds class 1, but the image is of class 2"):
        serve(View.FINE, fine, coarse * 2, 2, True)
    with pytest.raises(ValueError, match="which must contain it"):
        serve(View.FINE, coarse, fine, 1, True)
