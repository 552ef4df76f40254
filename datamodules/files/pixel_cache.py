"""Resized pixels on disk, so that large files are decoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files import digest_of, file_digest, write_atomically

_NAMES = "names of the arrays"

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
        found = _read(path)
        if found is not None:
            return found
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
    return digest_of([file_digest(file), settings])


def _read(path: Path) -> Stored | None:
    """What an entry holds; None where there is none, or one that lost as much as a bit."""
    try:
        with np.load(path, allow_pickle=False) as entry:
            arrays = {name: entry[name] for name in entry.files}
            # Contents have check sums, the list of what there is has none.
            return arrays if arrays.pop(_NAMES).tolist() == sorted(arrays) else None
    except Exception:  # damaged archives raise what they like
        return None


def _write(path: Path, arrays: Stored) -> None:
    with path.open("wb") as stream:  # given a name, NumPy would add an ending
        np.savez(stream, **arrays, **{_NAMES: np.array(sorted(arrays))})  # type: ignore[arg-type]  # no array is named allow_pickle
