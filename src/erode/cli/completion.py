"""``erode completion``: a script for the shell."""

from __future__ import annotations

from typing import Literal

import shtab
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from .lightning_cli import ErodeCLI


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> None:
    """Print a script that completes verbs and options, e.g. ``eval "$(erode completion bash)"``.

    Options of classes are not among them: jsonargparse's own script walks every subclass of every class, and does
    not come to an end on a Trainer.

    Args:
        shell: the shell that will read the script.
    """

    class Completion(ErodeCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            print(shtab.complete(parser, shell))
            raise SystemExit(0)

    Completion([])
