"""DICOM files to arrays: radiographs, frames, and series of slices, which have to be the slices of one volume."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.data.image_reader import PydicomReader
from numpy.typing import NDArray
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_color_lut, get_decoder  # type: ignore[attr-defined]
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ..errors import DataError

MOST_SAMPLES = 2**28
"""A DICOM file that promises more numbers than this (1 GiB in memory as float32) is not decoded."""


def dicom_header(path: Path) -> pydicom.Dataset:
    """What a DICOM file says of itself, without its pixels.

    Raises:
        DataError: if it cannot be read, or may be a decompression bomb: deflated as a whole, or with more than
            ``MOST_SAMPLES`` numbers for pixels. Pillow, which decodes JPEG frames, has a limit of its own.
    """
    try:
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise ValueError("all of it is deflated, to no one knows what size; store it with another transfer syntax")
        header = pydicom.dcmread(path, stop_before_pixels=True)
        size = math.prod(
            int(header.get(name) or 1) for name in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")
        )
    except Exception as error:
        raise DataError(f"{path} cannot be read ({error}): it may be damaged, download it again") from error
    if size > MOST_SAMPLES:
        raise DataError(
            f"{path} promises {size} pixels, more than {MOST_SAMPLES}: it may be a decompression bomb; "
            "if it is none, store it at a lower resolution"
        )
    return header


def read_dicom(path: Path) -> tuple[NDArray[Any], bool]:
    """Pixels of a file or of a folder that holds one series.

    Numbers are rescaled as the header asks; a rescaling that changes nothing leaves bytes bytes. Colours of a palette
    become RGB of 8 bits.

    Returns:
        ``[C, *spatial]``, a series in the order of its instance numbers; whether low values are bright (MONOCHROME1).

    Raises:
        DataError: if the file needs a decoder that is not installed, or a folder holds anything but the numbered slices
            of one series.
        Exception: of a decoder.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    headers = {file: dicom_header(file) for file in files if not path.is_dir() or pydicom.misc.is_dicom(file)}
    for file, header in headers.items():
        _require_decoder(file, header)
    if len(headers) > 1:
        _require_one_series(headers)
    reader = PydicomReader(swap_ij=False)
    with warnings.catch_warnings():
        # Orientation tags are often missing in radiographs, and of no use here.
        warnings.filterwarnings("ignore", message="PydicomReader: ImageOrientationPatient")
        data = reader.read(path)
        slices = data if isinstance(data, list) else [data]
        for one in slices:
            _drop_idle_rescaling(one)
        array, _ = reader.get_data(data)
    first = slices[0]
    if isinstance(data, list):
        array = np.moveaxis(array, -1, 0)
    photometric = first.get("PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        array = apply_color_lut(array, first)
        array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    in_colour = first.get("SamplesPerPixel", 1) > 1 or photometric == "PALETTE COLOR"
    return np.moveaxis(array, -1, 0) if in_colour else array[None], photometric == "MONOCHROME1"


def _require_decoder(file: Path, header: pydicom.Dataset) -> None:
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_transfer_syntax or not syntax.is_compressed:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DataError(
            f"{file} is stored as {syntax.name}, which nothing here decodes: store it uncompressed"
        ) from None
    if not decoder.is_available:
        raise DataError(
            f"{file} is stored as {syntax.name}, and no decoder of that is installed "
            f"({'; '.join(decoder.missing_dependencies)}): install one, or store the file uncompressed"
        )


def _require_one_series(headers: Mapping[Path, pydicom.Dataset]) -> None:
    """Slices that do not say where they belong, or belong elsewhere, would be left out or mixed up in silence."""
    one_volume = "a folder holds the slices of one volume"
    for name in ("SeriesInstanceUID", "PhotometricInterpretation"):
        first: dict[str, Path] = {}
        for file, header in headers.items():
            first.setdefault(str(header.get(name) or "none"), file)
        if len(first) > 1:
            (one, here), (other, there) = list(first.items())[:2]
            raise DataError(f"{here} has the {name} {one}, {there} has {other}: {one_volume}, so move the others out")
    numbers: dict[int, Path] = {}
    for file, header in headers.items():
        number = header.get("InstanceNumber")
        if number is None or number == "":
            raise DataError(f"{file} has no InstanceNumber: {one_volume} in that order, so add it or move the file out")
        if int(number) in numbers:
            raise DataError(
                f"{file} and {numbers[int(number)]} both have the InstanceNumber {number}: {one_volume} in that order, "
                "so number the slices, or store the volume as NIfTI"
            )
        numbers[int(number)] = file


def _drop_idle_rescaling(data: pydicom.Dataset) -> None:
    """Multiplying by 1 and adding 0 would make floats of bytes, which have another scale."""
    if data.get("RescaleSlope", 1) == 1 and data.get("RescaleIntercept", 0) == 0:
        for name in ("RescaleSlope", "RescaleIntercept"):
            if name in data:
                delattr(data, name)
