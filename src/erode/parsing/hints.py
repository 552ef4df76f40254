"""What people may have meant, in a last line below a parser's error."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

ROOMS = ("callbacks", "datamodules", "lightning_modules", "masks", "objectives")
"""Of ours, where classes stand that people name."""

LIBRARIES = ("lightning.pytorch.callbacks", "lightning.pytorch.loggers")

_GIVEN = r"(?P<given>[\w.-]+)"


class HintingParser(ArgumentParser):
    """A parser whose errors end with the nearest name that it knows, if one is near."""

    def print_usage(self, file: SupportsWrite[str] | None = None) -> None:
        """Nothing: all options of a Trainer would push what is wrong off the screen; a tip below names ``--help``."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and what may have been meant, and exit with 2."""
        asked = getattr(ex, "subcommand_parser", None) or self
        near = meant(message, [option for action in asked._actions for option in action.option_strings])
        super().error(f"{message.rstrip()}\n{near}" if near else message, ex)


def meant(message: str, options: Iterable[str] = ()) -> str | None:
    """A line that names what may have been meant, by the first of these errors that a message tells.

    Args:
        message: of jsonargparse or argparse.
        options: that the parser knows.

    Example:
        >>> meant("unrecognized arguments: --stepz=3", ["--steps", "--seeds"])
        'did you mean --steps?'
        >>> meant("Expected a typing.Literal['coarse', 'scrub']. Got value: SCRUB")
        'did you mean scrub?'
    """
    known: dict[str, Callable[[re.Match[str]], Iterable[str]]] = {
        rf"Problem with given class_path '(?P<path>[\w.]+)':\s+Option '{_GIVEN}' is not accepted": _arguments,
        rf"Expected a dot import path string: {_GIVEN}": lambda _: _classes(),
        rf"unrecognized arguments: {_GIVEN}": lambda _: options,
        rf"typing\.Literal\[(?P<values>[^\]]*)\]\. Got value: {_GIVEN}": _listed,
        rf"Option '{_GIVEN}' is not accepted": lambda _: options,
        rf"(?<!subcommand: )invalid choice: '{_GIVEN}' \(choose from (?P<values>.*)\)": _listed,
    }
    if re.search(r"Expected a <class 'collections\.abc\.Sequence'>\. Got value: [^\[\s]", message):
        return "write a list, in brackets and quotes: '[…]'"
    for pattern, names in known.items():
        if found := re.search(pattern, message):
            near = nearest(found["given"], names(found))
            return f"did you mean {near}?" if near else None
    return None


def nearest(given: str, names: Iterable[str]) -> str | None:
    """The name that is most like another, without regard to case; None where none is near.

    Example:
        >>> nearest("SCRUB", ["Scrub", "Retrain"])
        'Scrub'
    """
    by_letters = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), by_letters, n=1, cutoff=0.7)
    return by_letters[near[0]] if near else None


def _listed(found: re.Match[str]) -> list[str]:
    return re.findall(r"'([^']*)'", found["values"])


def _classes() -> list[str]:
    """Short names that mean a class, of what is imported."""
    modules = [*(f"{__name__.partition('.')[0]}.{room}" for room in ROOMS), *LIBRARIES]
    return [name for module in modules if module in sys.modules for name in sys.modules[module].__all__]


def _arguments(found: re.Match[str]) -> list[str]:
    """What a class takes, itself or by those that it inherits from."""
    module, _, name = found["path"].rpartition(".")
    named = getattr(importlib.import_module(module), name)
    taken: list[str] = ArgumentParser().add_class_arguments(named, fail_untyped=False)
    return taken
