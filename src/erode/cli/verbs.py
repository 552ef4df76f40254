"""The verbs beside Lightning's: where each is, and how its arguments are given."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jsonargparse import auto_cli

from ..parsing import FreshParser, HintingParser

ROOMS = ("..callbacks", "..datamodules", "..lightning_modules")
"""Where the classes stand that people name."""


class _Parser(HintingParser, FreshParser):
    """Of the verbs that need none of their own."""


@dataclass(frozen=True)
class Verb:
    """A function whose arguments jsonargparse reads; imported when it is asked for, as all of them take seconds.

    Args:
        module: relative to this package.
        function: its name there.
        by_name: whether required arguments have names, so that configurations can give them; else they are files in
            order.
        own_parser: whether the function reads the command line itself.
        second_file: an optional argument that people give as a second file; jsonargparse takes required ones by
            position only.
        names_classes: whether arguments name classes of ours; by their short names they are known once imported.
    """

    module: str
    function: str
    by_name: bool = False
    own_parser: bool = False
    second_file: str | None = None
    names_classes: bool = False

    def load(self) -> Callable[..., object]:
        """The function."""
        for room in ROOMS if self.names_classes else ():
            importlib.import_module(room, __package__)
        loaded: Callable[..., object] = getattr(importlib.import_module(self.module, __package__), self.function)
        return loaded

    def summary(self) -> str:
        """What it does, in a line."""
        return (inspect.getdoc(self.load()) or "").partition("\n")[0]

    def run(self, name: str, args: Sequence[str]) -> None:
        """Call it with the arguments of the command line, and print what it returns."""
        if self.second_file and len(args) == 2 and not any(word.startswith("-") for word in args):
            args = [args[0], self.second_file, args[1]]
        if self.own_parser:
            print(self.load()(args))
            return
        written = auto_cli(
            self.load(), args=list(args), prog=f"erode {name}", as_positional=not self.by_name, parser_class=_Parser
        )
        if written is not None:
            print(written)


VERBS = {
    "anchor": Verb(".anchor", "anchor", names_classes=True),
    "audit": Verb("..audit", "audit", by_name=True, names_classes=True),
    "benchmark": Verb("..benchmark", "benchmark", names_classes=True),
    "classify": Verb("..protocols.classification", "classify", names_classes=True),
    "compare": Verb("..comparison", "compare", names_classes=True),
    "completion": Verb(".completion", "completion"),
    "correlations": Verb("..protocols.traps.correlations", "correlations", by_name=True, names_classes=True),
    "ladder": Verb("..protocols.ladder", "ladder", names_classes=True),
    "measure": Verb("..measures", "measure", by_name=True, names_classes=True),
    "operators": Verb("..operators", "operators"),
    "plan": Verb("..plan.command", "plan_command", own_parser=True, names_classes=True),
    "report": Verb("..report", "report"),
    "rewind": Verb("..requests", "rewind"),
    "traps": Verb("..protocols.traps", "traps", names_classes=True),
    "verify": Verb("..certificates", "verify", second_file="--weights"),
}
"""By name."""


def listing() -> str:
    """A line for each verb."""
    return "\n".join(f"    {name:<16}{verb.summary()}" for name, verb in VERBS.items())
