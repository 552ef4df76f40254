"""The verbs beside Lightning's: where each is, and how its arguments are given."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jsonargparse import auto_cli

from ..fresh_parser import FreshParser


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
    """

    module: str
    function: str
    by_name: bool = False
    own_parser: bool = False
    second_file: str | None = None

    def load(self) -> Callable[..., object]:
        """The function."""
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
            self.load(), args=list(args), prog=f"erode {name}", as_positional=not self.by_name, parser_class=FreshParser
        )
        if written is not None:
            print(written)


VERBS = {
    "anchor": Verb(".anchor", "anchor"),
    "audit": Verb("..audit", "audit", by_name=True),
    "benchmark": Verb("..benchmark", "benchmark"),
    "classify": Verb("..protocols.classification", "classify"),
    "compare": Verb("..comparison", "compare"),
    "completion": Verb(".completion", "completion"),
    "correlations": Verb("..correlations", "correlations", by_name=True),
    "ladder": Verb("..protocols.ladder", "ladder"),
    "measure": Verb("..measures", "measure", by_name=True),
    "operators": Verb("..operators.command", "operators"),
    "plan": Verb("..plan.command", "plan_command", own_parser=True),
    "report": Verb("..report", "report"),
    "rewind": Verb("..requests", "rewind"),
    "traps": Verb("..protocols.traps", "traps"),
    "verify": Verb("..verify", "verify", second_file="--weights"),
}
"""By name."""


def listing() -> str:
    """A line for each verb."""
    return "\n".join(f"    {name:<16}{verb.summary()}" for name, verb in VERBS.items())
