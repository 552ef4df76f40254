"""What a DataModule knows of an image before and after reading it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Case:
    """One image, before any of its pixels is read.

    Args:
        id: unique name.
        label: class of the image, 0 = no pathology.
        part: the part of the data it belongs to.
        flags: named image-level artefact flags, 1 = present; empty where nobody annotated them.
        group: patient or any other unit that must stay within one part; empty = a group of its own.
        paths: files by kind (``image``, ``mask``, ``coarse``, ``artefact``), for reading and error messages;
            empty for generated data.
    """

    id: str
    label: int
    part: Part
    flags: Mapping[str, int] = field(default_factory=dict)
    group: str = ""
    paths: Mapping[str, Path] = field(default_factory=dict)

    @property
    def group_number(self) -> int:
        """A number of 63 bits of its group, or of the image where it has none: one on all parts and processes."""
        name = f"group {self.group}" if self.group else f"image {self.id}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Arrays:
    """The pixels of one case.

    Args:
        image: float32 ``[C, *spatial]``.
        mask: int64 ``[*spatial]`` fine mask, 0 = background; None where only a coarse mask exists.
        coarse: int64 ``[*spatial]`` coarse mask as annotated; None = derive it from the fine mask.
        artefact: uint8 ``[*spatial]`` artefact type, 0 = none; None where artefact pixels are unknown.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.int64] | None = None
    coarse: NDArray[np.int64] | None = None
    artefact: NDArray[np.uint8] | None = None
