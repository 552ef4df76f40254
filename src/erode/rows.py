"""Experiments that go on where they stopped: one folder, one setting, one file for each finished row."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import alone, digest_of, write_json

ABSENT = object()
"""Stands for a setting that is not there, which None may not."""


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


def check_size(steps: int, seeds: Sequence[int]) -> None:
    """Refuse an experiment that trains nothing.

    Raises:
        ValueError: naming what is missing.

    Example:
        >>> check_size(steps=0, seeds=[0])
        Traceback (most recent call last):
        ...
        ValueError: steps must be at least 1, got 0
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not seeds:
        raise ValueError("seeds are empty, so there is nothing to do; give at least one, such as '[0]'")


def claim(out: Path, settings: Mapping[str, Any], what: str) -> None:
    """Write the settings into a new folder, or make sure that an old one belongs to the same experiment.

    Args:
        out: folder of the experiment.
        settings: all that its rows depend on, as plain data.
        what: kind of experiment, for the error.

    Raises:
        ValueError: if the folder holds an experiment with other settings.
    """
    check_settings(out, settings, what)
    if not (out / "settings.json").exists():
        write_json(out / "settings.json", settings)


def check_settings(out: Path, settings: Mapping[str, Any], what: str) -> None:
    """Make sure that a folder, if it is there, belongs to the same experiment; nothing is written.

    Args:
        out: folder of the experiment.
        settings: all that its rows depend on, as plain data.
        what: kind of experiment, for the error.

    Raises:
        ValueError: if the folder holds an experiment with other settings, naming each, rows of unknown ones, or a run.
    """
    path = out / "settings.json"
    if not path.exists():
        refuse_run(out)
        if any(out.glob("rows/*.json")):
            raise ValueError(f"{out} holds rows without their settings.json; put it back, or choose another out")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if digest_of(before) != digest_of(settings):
        changed = "; ".join(differences(before, settings))
        raise ValueError(
            f"{out} holds a {what} with other settings ({changed}); nothing is overwritten, choose another out"
        )


def refuse_run(out: Path) -> None:
    """Refuse the folder of a single run, whose report and pictures an experiment would write over.

    Raises:
        ValueError: naming what tells it.
    """
    for name in ("weights.safetensors", "unlearned", "metrics.csv", "checkpoints"):
        if (out / name).exists():
            raise ValueError(f"{out} holds a run ({name}), and nothing is overwritten; choose another out")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two settings, in words; digests are cut to eight digits.

    Example:
        >>> differences({"steps": 3, "data": {"size": 32}}, {"steps": 3, "data": {"size": 64}})
        ['data, size: 32 there, 64 asked for']
    """
    found = []
    for key in dict.fromkeys([*before, *now]):
        one, other = before.get(key, ABSENT), now.get(key, ABSENT)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += [f"{key}, {inner}" for inner in differences(one, other)]
        elif one is ABSENT or other is ABSENT or digest_of(one) != digest_of(other):
            found.append(f"{key}: {_short(one)} there, {_short(other)} asked for")
    return found


def _short(value: Any) -> str:
    return "nothing" if value is ABSENT else re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", str(value))


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
        with alone(path) as lock:
            if not path.exists():
                write_json(path, compute())
            lock.unlink(missing_ok=True)  # only once the row is there: where it failed, others may wait on this file
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def number(value: float) -> float | None:
    """A value for JSON, which knows neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None
