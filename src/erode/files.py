"""Files that are either complete or absent, and digests of what they hold."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place in one step.

    Args:
        path: where the complete file is to stand; parent folders are made.
        write: writes the whole file to the path it is given.

    Returns:
        ``path``. Whatever goes wrong before the move leaves an earlier file at ``path`` untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write text in UTF-8, atomically."""

    def write(target: Path) -> None:
        target.write_text(text, encoding="utf-8")

    return write_atomically(path, write)


def write_json(path: str | Path, content: Any) -> Path:
    """Write JSON for people: indented, keys in the order given, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(path, text)


@contextmanager
def alone(path: str | Path) -> Iterator[Path]:
    """Work on a file while no other process or thread does: the others wait, on systems that lock files.

    The system lets the lock go if this process is killed.

    Args:
        path: where the file is, or is to be; parent folders are made.

    Yields:
        The lock, a hidden file beside it. It stays, for others may wait on this very file; take it away only where they
        will find nothing left to do.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield lock


def parse_json(text: str) -> Any:
    """Read JSON that says one thing to everyone.

    Raises:
        ValueError: if it is none, or an object gives a name twice (of which people read one and programs the other), or
            a number is none.

    Example:
        >>> parse_json('{"epsilon": 0.1, "epsilon": 8}')
        Traceback (most recent call last):
        ...
        ValueError: the name 'epsilon' is given twice
    """
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)


def digest_of(content: Any) -> str:
    """SHA-256 of the canonical JSON form (sorted keys, no spaces) of plain data.

    Example:
        >>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
        True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def fresh_folder(parent: str | Path, name: str) -> Path:
    """Make ``parent/name-N`` with the smallest N that no folder has yet.

    Example:
        >>> import tempfile
        >>> parent = tempfile.mkdtemp()
        >>> [fresh_folder(parent, "fit").name for _ in range(2)]
        ['fit-0', 'fit-1']
    """
    number = 0
    while True:
        folder = Path(parent) / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the name {name!r} is given twice")
        content[name] = value
    return content


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, as ``sha256sum`` prints it.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     file_digest(file.name)[:8]
        'e3b0c442'
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
