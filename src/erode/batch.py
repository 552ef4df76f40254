"""The batch: a plain dict whose keys, shapes, dtypes and units stand here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Role(IntEnum):
    """What the label of a pixel is to the unlearning problem (theory §1, §2)."""

    RETAIN = 0
    """The label is a retained atom: learn it."""
    FORGET = 1
    """The label is a forget atom: only the original model, and operators that ask for it, see it."""
    UNLABELLED = 2
    """The label was forgotten and is not served; the pixel lies inside the coarse region of its image."""
    IGNORE = 3
    """The pixel takes no part in any loss."""


NO_PRIOR = -1.0
"""Value of ``prior`` where no position prior applies."""

UNKNOWN_ARTEFACT = 255
"""Value of ``artefact`` where the artefact's pixels are not known."""

UNKNOWN_FLAG = -1
"""Value of ``flag`` where nobody said whether the image shows an artefact."""


class Field(NamedTuple):
    """One key of a batch: dtype, whether it has one value per pixel, and its meaning."""

    dtype: torch.dtype
    per_pixel: bool
    meaning: str


FIELDS: dict[str, Field] = {
    "mask": Field(torch.int64, True, "class served as label, 0 = background; meaningless where UNLABELLED"),
    "coarse": Field(torch.int64, True, "class of the coarse mask"),
    "role": Field(torch.uint8, True, "Role of the pixel"),
    "prior": Field(torch.float32, True, "P(foreground) at UNLABELLED pixels, NO_PRIOR elsewhere"),
    "artefact": Field(torch.uint8, True, "artefact type, 0 = none, UNKNOWN_ARTEFACT = not annotated"),
    "label": Field(torch.int64, False, "class of the image, 0 = no pathology"),
    "flag": Field(torch.int64, False, "1 = the image shows an artefact, 0 = it does not, UNKNOWN_FLAG"),
    "counted": Field(torch.bool, False, "False for the copies that pad the last distributed batch"),
}
"""Every key but ``image`` (float32 ``[B, C, *spatial]``), ``id`` (list of B strings) and two that a loader may leave
out: ``flags`` (a dict of all artefact flags by name, ``[B]`` each, of which ``flag`` is one) and ``group`` (int64
``[B]`` >= 0, the same number for images of one patient in all batches and parts, by which intervals are resampled;
without it each image counts as independent)."""


def check_batch(batch: Mapping[str, Any], num_classes: int) -> None:
    """Check a batch against the contract of this module.

    Args:
        batch: what a DataModule of ours emits; per-pixel entries are ``[B, *spatial]``, others ``[B]``.
        num_classes: number of classes, background included.

    Raises:
        ValueError: naming the first key that is missing or has another shape, dtype or range.

    Example:
        >>> check_batch({"image": torch.zeros(1, 3, 4, 4)}, num_classes=2)
        Traceback (most recent call last):
        ...
        ValueError: batch['mask'] is missing: ...
    """
    image = batch.get("image")
    if not isinstance(image, Tensor) or image.dtype != torch.float32 or image.ndim not in (4, 5):
        raise ValueError("batch['image'] must be a float32 tensor [B, C, H, W] or [B, C, D, H, W]")
    for key, field in FIELDS.items():
        value = batch.get(key)
        if not isinstance(value, Tensor):
            raise ValueError(f"batch['{key}'] is missing: {field.meaning}")
        shape = (image.shape[0], *image.shape[2:]) if field.per_pixel else (image.shape[0],)
        if tuple(value.shape) != shape or value.dtype != field.dtype:
            raise ValueError(
                f"batch['{key}'] must be {field.dtype} of shape {list(shape)} ({field.meaning}), "
                f"got {value.dtype} of shape {list(value.shape)}"
            )
    group = batch.get("group")
    if group is not None and (
        not isinstance(group, Tensor) or group.dtype != torch.int64 or group.shape != image.shape[:1]
    ):
        raise ValueError(
            f"batch['group'] must be torch.int64 of shape [{len(image)}] (a number for the patient, by which intervals "
            "are resampled); leave it out, or give it another name if it means something else"
        )
    for key in ("mask", "coarse", "label"):
        if bool((batch[key] < 0).any()) or bool((batch[key] >= num_classes).any()):
            raise ValueError(
                f"batch['{key}'] holds {batch[key].unique().tolist()}, but classes are 0..{num_classes - 1}; "
                "set num_classes of the model to that of the data"
            )
