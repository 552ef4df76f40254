"""Digests of what the files of a data set hold, read once per process."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from ...files import digest_of, file_digest
from ..case import Case


def digest_of_cases(cases: Iterable[Case]) -> str:
    """Digest of all that is known of the cases before pixels are decoded: names, labels, parts, flags, files.

    Files count by their bytes, wherever they lie. Each is read once per process, and again after its size or date
    changed.

    Raises:
        OSError: if a file cannot be read.
    """
    return digest_of([[c.id, c.label, c.part, c.group, dict(c.flags), _files(c)] for c in cases])


def _files(case: Case) -> dict[str, str]:
    return {kind: content_of(path) for kind, path in sorted(case.paths.items())}


def content_of(path: Path) -> str:
    """Digest of the bytes of a file, or of all files of a folder (a series of slices) with their names."""
    if path.is_dir():
        return digest_of({file.name: content_of(file) for file in sorted(path.iterdir())})
    about = path.stat()
    return _read(str(path.absolute()), about.st_size, about.st_mtime_ns)


@functools.cache
def _read(path: str, size: int, changed: int) -> str:
    return file_digest(path)
