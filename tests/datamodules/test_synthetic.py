"""Claims of the synthetic dermoscopy data: balance, geometry, twins and reproducibility."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from erode.datamodules.painting.brushes import Artefact
from erode.datamodules.painting.dermoscopy import smooth_noise
from erode.datamodules.synthetic import DermoscopyGenerator, SyntheticDermoscopy

BESIDE = [Artefact.RULER, Artefact.INK, Artefact.PATCH, Artefact.DARK_CORNER]
scenes = st.tuples(
    st.integers(0, 10**6), st.sampled_from([1, 2]), st.sampled_from(BESIDE), st.sampled_from([32, 64, 96])
)


def levels(image: np.ndarray) -> np.ndarray:
    return np.rint(255 * image).astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(scenes)
def test_artefact_lies_beside_the_lesion_and_within_reach(scene):
    seed, label, artefact, size = scene
    arrays = DermoscopyGenerator(size).render((seed,), label, artefact)
    shown = arrays.artefact == artefact
    assert set(np.unique(arrays.artefact)) == {0, artefact}
    assert set(np.unique(arrays.mask)) == {0, label}
    assert not (shown & (arrays.mask > 0)).any()
    if artefact is not Artefact.DARK_CORNER:
        assert distance_transform_edt(arrays.mask == 0)[shown].max() <= size / 8


@settings(deadline=None, max_examples=40)
@given(scenes)
def test_twins_differ_at_the_artefact_and_nowhere_else(scene):
    seed, label, artefact, size = scene
    generator = DermoscopyGenerator(size)
    bare = generator.render((seed,), label)
    for hair, kinds in ((False, {artefact}), (True, {artefact, Artefact.HAIR})):
        twin = generator.render((seed,), label, artefact, hair=hair)
        changed = (levels(twin.image) != levels(bare.image)).any(axis=0)
        assert np.array_equal(twin.mask, bare.mask)
        assert not changed[~np.isin(twin.artefact, list(kinds))].any()
        assert changed[twin.artefact == artefact].mean() > 0.9


def test_the_class_of_a_lesion_does_not_change_the_skin_around_it():
    generator = DermoscopyGenerator()
    for seed in range(20):
        benign, malignant = generator.render((seed,), 1), generator.render((seed,), 2)
        far = distance_transform_edt((benign.mask == 0) & (malignant.mask == 0)) > 16
        assert far.any()
        assert np.array_equal(benign.image[:, far], malignant.image[:, far])


def test_lesion_is_one_piece_inside_the_picture_and_its_size_does_not_tell_the_class():
    generator = DermoscopyGenerator()
    areas = {label: [(generator.render((i,), label).mask > 0).sum() for i in range(200)] for label in (1, 2)}
    assert min(map(min, areas.values())) > 100
    assert np.mean(areas[2]) == pytest.approx(np.mean(areas[1]), rel=0.1)


def test_hair_runs_over_lesions():
    arrays = [DermoscopyGenerator().render((i,), 1, hair=True) for i in range(30)]
    over = [((a.artefact == Artefact.HAIR) & (a.mask > 0)).any() for a in arrays]
    assert np.mean(over) > 0.8


def test_pixels_are_reproduced_byte_for_byte():
    """A change of this digest is a change of the data set: every published number would move."""
    digest = hashlib.sha256()
    for seed, artefact in enumerate([None, *BESIDE]):
        arrays = DermoscopyGenerator().render((7, seed), 1 + seed % 2, artefact, hair=seed % 2 == 0)
        for part in (levels(arrays.image), arrays.mask.astype(np.uint8), arrays.artefact):
            digest.update(np.ascontiguousarray(part).tobytes())
    assert digest.hexdigest() == "6769fb2340ffb27c92cf9c44ffc43de1edc5daf86ec2cbd67b0df1dee79311c3"


def test_pixels_lie_on_256_levels():
    image = DermoscopyGenerator().render((0,), 2).image
    assert image.dtype == np.float32
    assert image.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, levels(image).astype(np.float32) / np.float32(255))


def test_smooth_noise_has_unit_variance():
    fields = np.stack([smooth_noise(np.random.default_rng(i), 32, 6) for i in range(400)])
    assert fields.mean() == pytest.approx(0, abs=1e-12)
    assert fields.var() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("correlation", [-1.0, -0.4, 0.0, 0.6, 1.0])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_correlation_of_flag_and_class_is_the_one_asked_for(part, correlation):
    data = SyntheticDermoscopy(
        train_images=600,
        val_images=100,
        test_images=300,
        train_correlation=correlation,
        test_correlation=correlation,
    )
    cases = data.part(part)
    labels, flags = (np.array(v) for v in zip(*((c.label == 2, c.flags["any"]) for c in cases), strict=True))
    hair = np.array([c.flags["hair"] for c in cases])
    assert np.corrcoef(labels, flags)[0, 1] == pytest.approx(correlation, abs=0.02)
    assert np.corrcoef(labels, hair)[0, 1] == pytest.approx(0, abs=0.03)
    assert labels.mean() == 0.5


def test_parts_are_disjoint_pictures_and_seeds_are_other_data():
    data = SyntheticDermoscopy(train_images=20, val_images=20, test_images=20)
    other = SyntheticDermoscopy(train_images=20, val_images=20, test_images=20, seed=1)
    pictures = {d.read(c).image.tobytes() for d in (data, other) for c in d.cases()}
    assert len(pictures) == 120
    assert len({c.id for c in data.cases()}) == 60


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.floats(0, 1), st.floats(-1, 1), st.integers(0, 99))
def test_flags_tell_what_is_painted(number, prevalence, correlation, seed):
    data = SyntheticDermoscopy(
        train_images=number,
        val_images=1,
        test_images=1,
        prevalence=prevalence,
        train_correlation=correlation,
        artefacts=["ruler", "ink", "patch", "dark_corner"],
        hair_rate=0.5,
        mark_hair=True,
        seed=seed,
    )
    for case in data.part("train")[:5]:
        arrays = data.read(case)
        assert int(arrays.mask.max()) == case.label
        painted = {kind: bool((arrays.artefact == kind).any()) for kind in (*BESIDE, Artefact.HAIR)}
        if case.flags["hair"] and case.flags["dark_corner"] and not painted[Artefact.HAIR]:
            painted[Artefact.HAIR] = True  # a dark corner may lie on all of it
        assert painted == {kind: bool(case.flags[kind.name.lower()]) for kind in painted}
        assert case.flags["any"] == sum(case.flags[k.name.lower()] for k in BESIDE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 16}, "size must be at least 32"),
        ({"train_images": 0}, "train_images must be at least 1"),
        ({"test_correlation": 1.5}, "test_correlation must lie between -1 and 1"),
        ({"hair_rate": -0.1}, "hair_rate must lie between 0 and 1"),
        ({"artefacts": ["gel"]}, "artefacts must name"),
        ({"artefacts": []}, "artefacts must name"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticDermoscopy(**arguments)


def test_painting_is_fast_enough_to_need_no_files():
    generator = DermoscopyGenerator()
    seconds = []
    for i in range(30):
        start = time.perf_counter()
        generator.render((i,), 2, Artefact.RULER, hair=True)
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 0.02


def test_the_binary_task_shows_the_same_pictures_with_one_class_of_lesion():
    both = {task: SyntheticDermoscopy(train_images=6, val_images=2, test_images=2, task=task) for task in
            ("binary", "multiclass")}  # fmt: skip
    assert both["binary"].class_names == ["background", "lesion"]
    for one, other in zip(both["binary"].cases(), both["multiclass"].cases(), strict=True):
        binary, multiclass = both["binary"].read(one), both["multiclass"].read(other)
        assert one.label == 1
        assert np.array_equal(binary.image, multiclass.image)
        assert np.array_equal(binary.mask, np.minimum(multiclass.mask, 1))
