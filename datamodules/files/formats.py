"""File formats: pictures, NIfTI and DICOM to arrays with rows first, whatever order their readers prefer.

Pictures and DICOM frames come as ``[H, W]``, a DICOM series (a folder) as ``[D, H, W]`` in the order of its
instance numbers. NIfTI is turned to the closest RAS+ orientation and its axes are reversed, ``[Z, Y, X]``, so
that an image and a mask stored in different orientations still meet. Pictures, masks too, are turned as their EXIF
orientation says: so does every viewer, and so did whoever drew the mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from monai.data.image_reader import NibabelReader
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ..errors import DataError
from .dicom import read_dicom

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI = (".nii.gz", ".nii")
DICOM = (".dcm", ".dicom", ".ima")

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations of pictures whose rows are shown as columns."""

Shape = tuple[int, ...]


class Pixels(NamedTuple):
    """What a file holds.

    Args:
        values: ``[C, *spatial]`` as stored, after the rescaling that a DICOM or NIfTI header asks for.
        shape: spatial shape of the file; ``values`` may have been decoded at a lower resolution.
        inverted: low values are bright (DICOM's MONOCHROME1).
        palette: where the values are the indices of a palette picture, its colours ``[entries, 3]``.
    """

    values: NDArray[Any]
    shape: Shape
    inverted: bool = False
    palette: NDArray[np.uint8] | None = None


def load(path: Path, spatial_dims: int, mode: str | None = None, at_least: Shape | None = None) -> Pixels:
    """Load a file.

    Args:
        path: a picture, NIfTI or DICOM file, or a folder with a DICOM series; unknown suffixes are DICOM.
        spatial_dims: 2 or 3.
        mode: Pillow mode that 8-bit pictures are converted to; None = palette indices and colours stay.
        at_least: JPEGs may be decoded at a lower resolution, but not at a lower one than this.

    Raises:
        DataError: if the file is missing, empty, unreadable, or of another dimension.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(file)
        >>> load(file, 2).values.shape
        (3, 4, 6)
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: restore it, or remove the image from the data")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes): download it again")
    try:
        if has_suffix(path, PICTURES):
            pixels = _picture(path, mode, at_least)
        elif has_suffix(path, NIFTI):
            pixels = _nifti(path, spatial_dims)
        else:
            values, inverted = read_dicom(path)
            pixels = Pixels(values, values.shape[1:], inverted)
    except DataError:
        raise
    except Exception as error:  # decoders raise what they like; the message keeps the cause
        raise DataError(f"{path} cannot be read ({error}): it may be damaged, download it again") from error
    if not pixels.values.dtype.isnative:
        pixels = pixels._replace(values=pixels.values.astype(pixels.values.dtype.newbyteorder("=")))
    if len(pixels.shape) != spatial_dims:
        raise DataError(
            f"{path} has the spatial shape {list(pixels.shape)}, but spatial_dims is {spatial_dims}: "
            "set spatial_dims, or convert the file"
        )
    return pixels


def stem(path: Path) -> str:
    """The name of a file without the suffix of a format that is read here.

    Example:
        >>> stem(Path("scans/case.1.nii.gz")), stem(Path("1.2.840.113"))
        ('case.1', '1.2.840.113')
    """
    name = path.name
    for suffix in (*PICTURES, *NIFTI, *DICOM):
        if has_suffix(path, (suffix,)):
            return name[: -len(suffix)]
    return name


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a file name ends with one of these, in any case."""
    return path.name.lower().endswith(suffixes)


def _picture(path: Path, mode: str | None, at_least: Shape | None) -> Pixels:
    with Image.open(path) as file:
        width, height = file.size
        if file.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
            if file.format == "TIFF":  # of which Pillow mixes up rows and columns
                raise DataError(f"{path} is stored sideways (TIFF tag Orientation): save it upright, without the tag")
            width, height = height, width
        # Further pictures of an MPO are previews and depth maps beside a camera's JPEG.
        pages = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
        if pages > 1:
            raise ValueError(f"{pages} pages in one picture; store a volume as NIfTI")
        if at_least is not None and len(at_least) == 2:
            # JPEG decodes to a half, quarter or eighth at a fraction of the cost; other formats ignore this.
            # It knows the picture as stored, so a square covers both ways of holding the camera.
            file.draft(mode, (max(at_least), max(at_least)) if (width, height) != file.size else at_least[::-1])
        turned = ImageOps.exif_transpose(file)
        deep = turned.mode.startswith(("I", "F"))
        if mode is None:
            mode = turned.mode if turned.mode in ("1", "L", "P") else "RGB"
        picture = turned if deep or turned.mode == mode else turned.convert(mode)
        array = np.array(picture)
        palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3) if picture.mode == "P" else None
    if array.dtype == bool:
        array = array.astype(np.uint8)
    values = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return Pixels(values, (height, width), palette=palette)


def _nifti(path: Path, spatial_dims: int) -> Pixels:
    reader = NibabelReader(as_closest_canonical=True)
    array, _ = reader.get_data(reader.read(path))
    while array.ndim > spatial_dims and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == spatial_dims:
        array = array[..., None]
    array = array.transpose()  # [C, Z, Y, X]
    return Pixels(array, array.shape[1:])


def require_one_place(mask: Path, image: Path) -> None:
    """Refuse a NIfTI mask whose header puts it elsewhere in space than its image, for the two are turned by it.

    Files that cannot be read, or have other shapes, are left to whoever loads them.

    Raises:
        DataError: if a corner of the mask lies more than half a voxel from that of the image.
    """
    try:
        one, other = (nibabel.as_closest_canonical(nibabel.load(file)) for file in (mask, image))  # type: ignore[no-untyped-call]
    except Exception:
        return
    if one.shape[:3] != other.shape[:3] or len(one.shape) < 3:
        return
    corners = np.array([[*index, 1] for index in np.ndindex(2, 2, 2)]) * [*(np.array(one.shape[:3]) - 1), 1]
    apart = np.linalg.norm(corners @ (one.affine - other.affine).T, axis=1).max()
    if apart > 0.5 * min(nibabel.affines.voxel_sizes(other.affine)):  # type: ignore[no-untyped-call]
        raise DataError(
            f"{mask} lies up to {apart:.3g} (mostly mm) from {image} by the affines of their headers: "
            "save the mask with the affine of its image"
        )
