"""Experiments that go on where they stopped: one folder, one setting, one file for each finished row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import digest_of, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def check_once(**given: Sequence[Any]) -> None:
    """Refuse what is named twice: a row that counts twice would narrow the spread over seeds.

    Args:
        given: what was asked for, by what it is called.

    Raises:
        ValueError: naming the first.

    Example:
        >>> check_once(seeds=[0, 1, 2], methods=["coarse"])
    """
    for what, values in given.items():
        if twice := [value for value, times in Counter(values).items() if times > 1]:
            raise ValueError(f"{what} has {twice[0]!r} more than once; name each once")


def claim(out: Path, settings: Mapping[str, Any], what: str) -> None:
    """Write the settings into a new folder, or make sure that an old one belongs to the same experiment.

    Args:
        out: folder of the experiment.
        settings: all that its rows depend on, as plain data.
        what: kind of experiment, for the error.

    Raises:
        ValueError: if the folder holds an experiment with other settings.
    """
    path = out / "settings.json"
    if path.exists():
        if digest_of(json.loads(path.read_text(encoding="utf-8"))) != digest_of(settings):
            raise ValueError(f"{out} holds a {what} with other settings; nothing is overwritten, choose another out")
    else:
        write_json(path, settings)


def stored(path: Path, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What stands in a file of JSON; computed and written first where there is none.

    Of several processes that want the same row one computes it; the others wait, on systems that lock files, for they
    would write over one another's weights.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "row.json"
        >>> stored(path, lambda: {"dice": 0.9}), stored(path, lambda: 1 / 0)
        ({'dice': 0.9}, {'dice': 0.9})
    """
    if not path.exists():
        with _alone(path):
            if not path.exists():
                write_json(path, compute())
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock beside a file; the system lets it go if this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        lock.unlink(missing_ok=True)  # only once the row is there: where it failed, others may wait on this very file


def number(value: float) -> float | None:
    """A value for JSON, which knows no NaN."""
    return float(value) if value == value else None
