"""Files to arrays: images in [0, 1], masks in classes, both of one size.

Intensities. 8-bit data are divided by 255. All else (16-bit pictures, NIfTI, DICOM) has no common scale: each
channel is mapped to [0, 1] from the ``window`` that the user names, or else from its 0.5 to 99.5 percentile.
Images are resized with an antialiasing filter, masks to the nearest pixel. Order of axes: :mod:`.formats`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from monai.transforms.spatial.array import Resize
from numpy.typing import NDArray
from torch.nn import functional as F

from ..case import Arrays, Case
from ..errors import DataError
from .formats import NIFTI, Pixels, Shape, has_suffix, load, require_one_place
from .palette import palette_values

PERCENTILES = (0.5, 99.5)

Size = int | tuple[int, ...]
"""Spatial size; one number stands for the same along every axis."""


def read_case(
    case: Case,
    *,
    size: Size | None = None,
    channels: int = 3,
    spatial_dims: int = 2,
    mask_values: Mapping[int, int] | None = None,
    window: tuple[float, float] | None = None,
) -> Arrays:
    """Read the files of a case (``case.paths``: image and, where known, mask, coarse, artefact).

    Args:
        case: what to read.
        size: spatial size of the arrays; None = as stored.
        channels: channels of the image: grey is repeated, pictures in colour become luminance.
        spatial_dims: 2 or 3.
        mask_values: class of each value of a mask file; None = non-zero pixels are of class ``case.label``.
        window: intensities that become 0 and 1, in units of the file.

    Returns:
        The arrays, all of one spatial shape.

    Raises:
        DataError: if a file is missing, unreadable, or does not fit the others.
    """
    path = case.paths["image"]
    pixels = load_image(path, size, channels, spatial_dims)

    def mask(kind: str, values: Mapping[int, int] | None) -> NDArray[np.int64] | None:
        file = case.paths.get(kind)
        if file is None:
            return None
        if has_suffix(file, NIFTI) != has_suffix(path, NIFTI):
            # RAS+ counts rows from the feet, pictures and DICOM from the head.
            raise DataError(f"{file} and {path} must both be NIfTI or neither: convert one of them")
        if has_suffix(file, NIFTI):
            require_one_place(file, path)
        return read_mask(file, size, values, spatial_dims=spatial_dims, image_shape=pixels.shape)

    def classes(kind: str) -> NDArray[np.int64] | None:
        array = mask(kind, mask_values)
        if mask_values is not None or array is None:
            return array
        if case.label == 0 and array.any():
            raise DataError(
                f"{case.paths[kind]} has foreground, but the label of {case.id} is 0 (no pathology): "
                "correct the label or empty the mask"
            )
        return array * case.label

    artefact = mask("artefact", None)
    return Arrays(
        image=to_unit(pixels, window),
        mask=classes("mask"),
        coarse=classes("coarse"),
        artefact=None if artefact is None else artefact.astype(np.uint8),
    )


def read_image(
    path: Path,
    size: Size | None = None,
    channels: int = 3,
    *,
    spatial_dims: int = 2,
    window: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Read an image; the arguments are those of :func:`read_case`.

    Returns:
        float32 ``[channels, *spatial]`` in [0, 1].

    Raises:
        DataError: if the file is missing, unreadable, of another dimension, or holds NaN or infinity.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> Image.fromarray(np.full((4, 6), 51, np.uint8)).save(file)
        >>> read_image(file, channels=1).shape, round(float(read_image(file, size=2).max()), 4)
        ((1, 4, 6), 0.2)
    """
    return to_unit(load_image(path, size, channels, spatial_dims), window)


def read_mask(
    path: Path,
    size: Size | None = None,
    values: Mapping[int, int] | None = None,
    *,
    spatial_dims: int = 2,
    image_shape: Shape | None = None,
) -> NDArray[np.int64]:
    """Read a mask.

    Palette pictures hold palette indices; where ``values`` names none and all their colours are grey, they hold these
    (:func:`~.palette.palette_values`). Colour pictures hold grey values where all pixels are grey and
    ``values`` names no colour, and ``0xRRGGBB`` otherwise; transparency is ignored.

    Args:
        path: the file.
        size: spatial size of the array; None = as stored.
        values: class of each value in the file; None = 0 and at most one other value, which becomes class 1.
        spatial_dims: 2 or 3.
        image_shape: spatial shape of the image file that the mask belongs to; None = do not compare.

    Returns:
        int64 ``[*spatial]`` of classes.

    Raises:
        DataError: if the file is missing, unreadable, of another shape than its image, or holds other values.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> Image.fromarray(np.array([[0, 7, 9]], np.uint8)).save(file)
        >>> read_mask(file, values={0: 0, 7: 1, 9: 2}).tolist()
        [[0, 1, 2]]
    """
    names_colours = values is not None and max(values, default=0) > 255
    pixels = load(path, spatial_dims)
    if not np.isfinite(pixels.values).all():
        raise DataError(f"{path} holds NaN or infinite values: write 0 where there is nothing")
    raw = _one_number_per_pixel(path, pixels.values, names_colours)
    if pixels.palette is not None and values is None:
        raw = palette_values(path, raw, pixels.palette)
    if image_shape is not None and raw.shape != image_shape:
        raise DataError(
            f"{path} has shape {list(raw.shape)}, but its image has {list(image_shape)}: "
            "export the mask at the size of the image"
        )
    return resize_mask(_to_classes(path, raw, values), size)


def resize_mask(mask: NDArray[Any], size: Size | None) -> NDArray[Any]:
    """The nearest pixel of a mask ``[*spatial]`` for each of another size.

    Example:
        >>> resize_mask(np.arange(6), (2,)).tolist()
        [1, 4]
    """
    for axis, new in enumerate(_full_size(size, mask.ndim) or ()):
        # The old pixel under the centre of each new one: what the resizing of images is aligned with.
        nearest = ((np.arange(new) + 0.5) * mask.shape[axis] / new).astype(np.int64)
        mask = mask.take(nearest, axis=axis)
    return mask


def check_reading(size: Size | None, window: tuple[float, float] | None, spatial_dims: int) -> None:
    """Refuse settings that no file can be read with, before any is.

    Raises:
        ValueError: naming the setting.
    """
    _full_size(size, spatial_dims)
    if window is not None and (len(window) != 2 or not window[0] < window[1]):
        raise ValueError(f"window must be two intensities, the lower one first, got {window}")


def _full_size(size: Size | None, spatial_dims: int) -> Shape | None:
    if size is None:
        return None
    full = (size,) * spatial_dims if isinstance(size, int) else tuple(size)
    if len(full) != spatial_dims or min(full) < 1:
        raise ValueError(f"size must be a positive number or {spatial_dims} of them, got {size}")
    return full


def load_image(path: Path, size: Size | None, channels: int, spatial_dims: int) -> Pixels:
    """Load an image, check it, bring it to ``channels`` and resize it; intensities stay as stored.

    Args and errors are those of :func:`read_image`; :func:`to_unit` maps the intensities.
    """
    full = _full_size(size, spatial_dims)
    # A JPEG decoded small has its last row and column filled up, which shifts its far corner by less than one
    # of its pixels: less than a quarter of a final pixel at four times the final size.
    at_least = None if full is None else tuple(4 * length for length in full)
    pixels = load(path, spatial_dims, "RGB" if channels == 3 else "L", at_least)
    values = pixels.values
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{path} holds NaN or infinite values: replace them, or remove the image")
    if len(values) not in (1, channels):
        raise DataError(f"{path} has {len(values)} channels, not {channels}: set channels: {len(values)}")
    if full is not None and values.shape[1:] != full:
        values = _resize(values, full)
    return pixels._replace(values=np.broadcast_to(values, (channels, *values.shape[1:])))


def _resize(values: NDArray[Any], size: Shape) -> NDArray[Any]:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if len(size) == 2:
        return F.interpolate(tensor[None], size, mode="bilinear", antialias=True)[0].numpy()
    is_bytes = tensor.dtype == torch.uint8
    smooth = Resize(size, mode="trilinear", anti_aliasing=True)(tensor.float()).numpy()
    return smooth.round().astype(np.uint8) if is_bytes else smooth


def to_unit(pixels: Pixels, window: tuple[float, float] | None) -> NDArray[np.float32]:
    """Intensities as stored, ``[C, *spatial]``, to [0, 1], as the head of this file says."""
    values = pixels.values
    if values.dtype == np.uint8 and window is None:
        unit = values.astype(np.float32) / np.float32(255)
    else:
        flat = values.reshape(len(values), -1).astype(np.float32)
        low, high = window if window is not None else np.percentile(flat, PERCENTILES, axis=1, keepdims=True)
        # A constant channel has no range and becomes 0.
        width = np.maximum(np.subtract(high, low), np.finfo(np.float32).tiny)
        unit = np.clip((flat - low) / width, 0, 1).astype(np.float32).reshape(values.shape)
    return cast("NDArray[np.float32]", 1 - unit if pixels.inverted else unit)


def _one_number_per_pixel(path: Path, values: NDArray[Any], names_colours: bool) -> NDArray[Any]:
    if len(values) not in (1, 3):
        raise DataError(f"{path} has {len(values)} channels: store the classes of a mask as numbers in one")
    grey: NDArray[Any] = values[0]
    if len(values) == 1 or (not names_colours and bool((values == grey).all())):
        return grey
    weights = np.array([1 << 16, 1 << 8, 1]).reshape(3, *[1] * grey.ndim)
    return np.asarray((values * weights).sum(axis=0))


def _to_classes(path: Path, raw: NDArray[Any], values: Mapping[int, int] | None) -> NDArray[np.int64]:
    found = sorted(pd.unique(raw.ravel()).tolist())
    if values is None:
        if len({*found, 0}) > 2:
            raise DataError(
                f"{path} holds the values {_some(found)}, not 0 and one other: "
                "name the class of each value in mask_values, or threshold the mask and store it without loss"
            )
        return np.asarray(raw != 0, np.int64)
    unknown = [value for value in found if value not in values]
    if unknown:
        raise DataError(
            f"{path} holds the values {_some(unknown)}, which mask_values does not name: add them, or correct the mask"
        )
    classes = np.zeros(raw.shape, np.int64)
    for value in found:
        classes[raw == value] = values[value]
    return classes


def _some(values: Sequence[float]) -> str:
    shown = [f"0x{value:06X}" if isinstance(value, int) and value > 255 else f"{value:g}" for value in values[:6]]
    return ", ".join(shown) + (", ..." if len(values) > 6 else "")
