"""Configurations that come with the package, by the names that they have in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path


def located(arguments: Sequence[str]) -> list[str]:
    """Words of a command line, where configurations of the package take the place of files that are not there.

    Example:
        >>> _, path = located(["--config", "configs/data/synthetic.yaml"])
        >>> Path(path).is_file()
        True
        >>> located(["--config=absent.yaml"])
        ['--config=absent.yaml']
    """
    return [_located(word) for word in arguments]


def _located(word: str) -> str:
    option, equals, name = word.rpartition("=")
    if not name.endswith(".yaml") or Path(name).exists():
        return word
    packaged = files(f"{__name__.partition('.')[0]}.configs") / name.removeprefix("configs/")
    return f"{option}{equals}{packaged}" if packaged.is_file() else word
