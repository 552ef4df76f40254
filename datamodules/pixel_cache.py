"""Resized pixels on disk, so that large files are decoded once."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import digest_of, write_atomically

Stored = Mapping[str, NDArray[Any]]


class PixelCache:
    """Named arrays in files whose names are digests of what the arrays were made from.

    A key is a content, never a path or a date: moved files are found again, changed ones are made anew, and two
    settings never share an entry. Processes may share a folder; an entry is complete or absent, and a damaged one is
    made anew. Nothing is ever removed: delete the folder to free the disk.

    Args:
        folder: where the entries lie; made when the first is written. None = nothing is kept.

    Example:
        >>> import tempfile
        >>> cache = PixelCache(Path(tempfile.mkdtemp()))
        >>> [cache.get("key", lambda: {"a": np.arange(n)})["a"].tolist() for n in (2, 3)]
        [[0, 1], [0, 1]]
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str, make: Callable[[], Stored]) -> Stored:
        """The arrays under a key, made and stored where there are none.

        Args:
            key: a digest; see :func:`content_key`.
            make: makes the arrays; called at most once.
        """
        if self.folder is None:
            return make()
        path = self.folder / key[:2] / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as entry:
                return {name: entry[name] for name in entry.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            arrays = make()
            write_atomically(path, lambda target: _write(target, arrays))
            return arrays


def content_key(file: Path, settings: Any) -> str:
    """Digest of the bytes of a file and of what is done with them.

    Args:
        file: read in blocks.
        settings: plain data, see :func:`erode.files.digest_of`.

    Raises:
        OSError: if the file cannot be read.
    """
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest_of([content, settings])


def _write(path: Path, arrays: Stored) -> None:
    with path.open("wb") as stream:  # given a name, NumPy would add an ending
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # no array is named allow_pickle
