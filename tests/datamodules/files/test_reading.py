import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from erode.datamodules import ImageFolderDataModule, PneumothoraxDataModule, SyntheticDermoscopy
from erode.datamodules.case import Case
from erode.datamodules.errors import DataError
from erode.datamodules.files.reading import read_case, read_image, read_mask

RNG = np.random.default_rng(0)


def test_eight_bits_are_divided_by_255(tmp_path, save):
    grey = RNG.integers(0, 256, (5, 9))
    image = read_image(save(tmp_path / "a.png", grey), channels=1)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[0], grey.astype(np.float32) / np.float32(255))


def test_channels_are_repeated_or_reduced(tmp_path, save):
    grey, colour = RNG.integers(0, 256, (5, 9)), RNG.integers(0, 256, (5, 9, 3))
    image = read_image(save(tmp_path / "a.png", grey), channels=3)
    assert image.shape == (3, 5, 9)
    np.testing.assert_array_equal(image[0], image[2])
    luminance = read_image(save(tmp_path / "b.png", colour), channels=1)[0]
    np.testing.assert_allclose(luminance, colour @ [0.299, 0.587, 0.114] / 255, atol=1 / 255)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "1", "CMYK"])
def test_every_kind_of_picture_becomes_colour(tmp_path, kind):
    name = tmp_path / ("a.tif" if kind == "CMYK" else "a.png")
    picture = Image.fromarray(np.full((4, 6, 3), 255, np.uint8)).convert(kind)
    picture.save(name)
    np.testing.assert_array_equal(read_image(name), np.ones((3, 4, 6)))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_percentile_or_window(tmp_path, ending):
    deep = RNG.integers(0, 4096, (50, 60)).astype(np.uint16)
    deep[0, 0] = 65535  # one hot pixel must not darken all others
    Image.fromarray(deep).save(tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}", channels=1)[0]
    low, high = np.percentile(deep, [0.5, 99.5])
    np.testing.assert_allclose(image, np.clip((deep - low) / (high - low), 0, 1), atol=1e-5)
    image = read_image(tmp_path / f"a.{ending}", channels=1, window=(1000, 3000))[0]
    np.testing.assert_allclose(image, np.clip((deep - 1000.0) / 2000, 0, 1), atol=1e-5)


def test_constant_images_stay_finite(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.full((3, 4, 5), -7.0), np.eye(4)), tmp_path / "a.nii")
    assert not read_image(tmp_path / "a.nii", channels=1, spatial_dims=3).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(tmp_path, bad):
    volume = np.zeros((3, 4, 5))
    volume[1, 1, 1] = bad
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match=r"a\.nii\.gz holds NaN or infinite values: replace them"):
        read_image(tmp_path / "a.nii.gz", channels=1, spatial_dims=3)


def test_shrinking_an_image_averages_instead_of_picking(tmp_path, save):
    checkers = 255 * (np.indices((64, 96)).sum(0) % 2)
    small = read_image(save(tmp_path / "a.png", checkers), size=(8, 12), channels=1)
    assert small.shape == (1, 8, 12)
    np.testing.assert_allclose(small, 0.5, atol=0.02)
    volume = (np.indices((32, 32, 16)).sum(0) % 2).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii")
    small = read_image(tmp_path / "a.nii", size=4, channels=1, spatial_dims=3, window=(0, 1))
    assert small.shape == (1, 4, 4, 4)
    np.testing.assert_allclose(small[:, 1:-1, 1:-1, 1:-1], 0.5, atol=0.05)


@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 24), st.integers(1, 24))
@hypothesis_settings(deadline=None, max_examples=25)
def test_masks_are_resized_like_torch_and_only_pick(tmp_path_factory, rows, columns, new_rows, new_columns):
    mask = np.random.default_rng(rows).integers(0, 3, (rows, columns)).astype(np.uint8)
    path = tmp_path_factory.mktemp("masks") / "a.png"
    Image.fromarray(mask).save(path)
    size = (new_rows, new_columns)
    result = read_mask(path, size, {0: 0, 1: 1, 2: 2})
    expected = torch.nn.functional.interpolate(torch.tensor(mask)[None, None], size, mode="nearest-exact")
    # torch computes centres in single precision; ours may differ by one pixel exactly between two.
    assert result.dtype == np.int64
    assert (result == expected[0, 0].numpy()).mean() > 0.9
    assert set(result.ravel()) <= set(mask.ravel())


@pytest.mark.parametrize("size", [16, (20, 30), None])
def test_image_and_mask_stay_aligned(tmp_path, save, size):
    mask = np.zeros((40, 60))
    mask[4:20, 30:44] = 255
    case = Case(
        "a",
        1,
        "train",
        paths={
            "image": save(tmp_path / "images" / "a.png", mask),
            "mask": save(tmp_path / "masks" / "a.png", mask),
            "artefact": save(tmp_path / "artefacts" / "a.png", mask.T.reshape(40, 60)),
        },
    )
    arrays = read_case(case, size=size)
    assert arrays.mask.shape == arrays.artefact.shape == arrays.image.shape[1:]
    disagreement = (arrays.image[0] > 0.5) != (arrays.mask == 1)
    assert disagreement.mean() < (0.03 if size else 1e-9)
    assert arrays.artefact.dtype == np.uint8
    assert arrays.coarse is None


def test_masks_take_the_class_of_the_image(tmp_path, save):
    path = save(tmp_path / "a.png", [[0, 255]])
    paths = {"image": path, "mask": path, "coarse": path}
    arrays = read_case(Case("a", 3, "train", paths=paths))
    assert arrays.mask.tolist() == arrays.coarse.tolist() == [[0, 3]]
    with pytest.raises(DataError, match=r"a\.png has foreground, but the label of a is 0 .* correct the label"):
        read_case(Case("a", 0, "train", paths=paths))


def test_masks_of_any_colour_model(tmp_path):
    indices = np.array([[0, 1, 2]], np.uint8)
    palette = Image.fromarray(indices, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png")
    assert read_mask(tmp_path / "palette.png", values={0: 0, 1: 1, 2: 2}).tolist() == [[0, 1, 2]]
    named = {0x000000: 0, 0xFF0000: 1, 0x0000FF: 2}
    for mode in ("RGB", "RGBA"):
        palette.convert(mode).save(tmp_path / "colour.png")
        assert read_mask(tmp_path / "colour.png", values=named).tolist() == [[0, 1, 2]]
    binary = Image.fromarray(np.array([[0, 255, 255]], np.uint8))
    for mode in ("1", "L", "LA", "RGB", "RGBA"):
        binary.convert(mode).save(tmp_path / "binary.png")
        assert read_mask(tmp_path / "binary.png").tolist() == [[0, 1, 1]]
    white = {0: 0, 0xFFFFFF: 1}
    assert read_mask(tmp_path / "binary.png", values=white).tolist() == [[0, 1, 1]]
    assert read_mask(tmp_path / "binary.png", values={0: 0, 255: 2}).tolist() == [[0, 2, 2]]


def test_wrong_masks_are_named_with_a_remedy(tmp_path, save):
    path = save(tmp_path / "a.png", [[0, 1, 7]])
    with pytest.raises(DataError, match=r"a\.png holds the values 0, 1, 7, .* mask_values"):
        read_mask(path)
    with pytest.raises(DataError, match=r"a\.png holds the values 7, .* add them"):
        read_mask(path, values={0: 0, 1: 1})
    Image.fromarray(np.array([[[0, 0, 0], [255, 0, 1], [255] * 3]], np.uint8)).save(tmp_path / "colours.png")
    with pytest.raises(DataError, match=r"colours\.png holds the values 0, 0xFF0001, 0xFFFFFF, "):
        read_mask(tmp_path / "colours.png")
    with pytest.raises(DataError, match=r"a\.png has shape \[1, 3\], but its image has \[1, 4\]: export"):
        read_mask(path, image_shape=(1, 4))


def test_nifti_and_pictures_do_not_mix(tmp_path, save):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 1)), np.eye(4)), tmp_path / "a.nii")
    paths = {"image": save(tmp_path / "a.png", np.zeros((4, 4))), "mask": tmp_path / "a.nii"}
    with pytest.raises(DataError, match=r"a\.nii and .*a\.png must both be NIfTI or neither: convert"):
        read_case(Case("a", 1, "train", paths=paths))


def test_size_must_fit_the_dimensions(tmp_path, save):
    with pytest.raises(ValueError, match="size must be a positive number or 2 of them"):
        read_image(save(tmp_path / "a.png", np.zeros((4, 4))), size=(4, 4, 4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_masks_with_nan_are_refused(tmp_path, bad):
    volume = np.zeros((3, 4, 5), np.float32)
    volume[0] = bad
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"a\.nii holds NaN or infinite values: write 0"):
        read_mask(tmp_path / "a.nii", spatial_dims=3)


def test_a_mask_lies_where_its_image_does(tmp_path):
    volume = RNG.integers(0, 2, (3, 4, 5)).astype(np.int16)
    place = np.array([[-2, 0, 0, 40], [0, 1, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1]], float)
    nudged, turned, moved = place + 1e-4, place @ np.diag([-1, 1, 1, 1]), place.copy()
    turned[:3, 3] = (place @ [2, 0, 0, 1])[:3]
    moved[0, 3] += 2
    nibabel.save(nibabel.Nifti1Image(volume, place), tmp_path / "a.nii")
    paths = {"image": tmp_path / "a.nii", "mask": tmp_path / "m.nii"}
    case = Case("a", 1, "train", paths=paths)
    for affine, values in ((place, volume), (nudged, volume), (turned, volume[::-1])):
        nibabel.save(nibabel.Nifti1Image(values, affine), paths["mask"])
        arrays = read_case(case, spatial_dims=3, channels=1, window=(0, 1))
        assert np.array_equal(arrays.image[0], arrays.mask)
    for affine in (np.eye(4), moved):
        nibabel.save(nibabel.Nifti1Image(volume, affine), paths["mask"])
        with pytest.raises(DataError, match=r"m\.nii lies up to .* from .*a\.nii .*: save the mask with the affine"):
            read_case(case, spatial_dims=3, channels=1)


@pytest.mark.parametrize("source", [ImageFolderDataModule, PneumothoraxDataModule])
def test_settings_that_no_file_can_be_read_with_are_refused_at_once(source):
    for window in ((255, 0), (1, 2, 3), (5, 5)):
        with pytest.raises(ValueError, match="window must be two intensities, the lower one first"):
            source("folder", window=window)
    for size in (0, (4, -1), (4, 4, 4)):
        with pytest.raises(ValueError, match="size must be a positive number or 2 of them"):
            source("folder", size=size)
    with pytest.raises(ValueError, match="view must be one of coarse, fine, fine_subset, retain, got 'fines'"):
        source("folder", view="fines")
    with pytest.raises(ValueError, match="split_seed must not be negative, got -1"):
        _ = SyntheticDermoscopy(size=32, train_images=4, split_seed=-1).split
