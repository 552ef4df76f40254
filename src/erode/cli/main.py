"""One command, and what people see of its errors."""

from __future__ import annotations

import logging
import os
import signal
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .. import __path__ as folders
from ..parsing import located, nearest
from .verbs import VERBS, listing


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; errors are raised."""
    os.environ.setdefault("WANDB_MODE", "offline")  # nothing leaves the machine unless asked to
    arguments = located(sys.argv[1:] if args is None else args)
    verb = arguments[0] if arguments else None
    if verb in VERBS:
        VERBS[verb].run(verb, arguments[1:])
    else:
        if args is None:
            sys.argv[1:] = arguments  # processes that a strategy launches read it too
        _run_lightning(None if args is None else arguments, verb)


def console() -> None:
    """`main` for people: what went wrong and what to do in one line, without the way through our code.

    Exits with 143 when terminated, as a shell reports it.
    """
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    try:
        main()
    except _lightnings("SIGTERMException"):  # has no code: a script that goes on must not take it for success
        print("erode: terminated; what was finished is kept, and the same command goes on", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("erode."):
            raise
        sys.exit(f"erode: {error.name} is newer than what is installed: run make, or pip install again")
    except _for_people() as error:
        cause = _said_first(error)
        if os.environ.get("ERODE_TRACEBACK") or _is_of_other_code(cause):
            raise
        sys.exit(f"erode: {cause}\n(ERODE_TRACEBACK=1 shows where)")


def _show_warning(
    others: Callable[..., None], message: Warning | str, category: Any, filename: str, *rest: Any
) -> None:
    """What we warn of, without the line of our code that says so."""
    if filename.startswith(tuple(folders)):
        print(f"erode: warning: {message}", file=sys.stderr)
    else:
        others(message, category, filename, *rest)


def _is_no_tip(record: logging.LogRecord) -> bool:
    """Whether Lightning says something of the run, and not of what else could be installed."""
    return "Tip: For seamless cloud" not in record.getMessage()


def _run_lightning(arguments: Sequence[str] | None, verb: str | None) -> None:
    """Lightning's verbs; help, and errors about the verb, name the others too."""
    from .lightning_cli import ErodeCLI
    from .run_folder import given_back_if_empty

    try:
        with given_back_if_empty():
            ErodeCLI(None if arguments is None else list(arguments))
    except SystemExit as end:
        if verb in ("-h", "--help"):
            print(f"\nfurther subcommands:\n{listing()}")
        elif end.code == 2 and verb not in ErodeCLI.subcommands():
            print(f"further subcommands: {', '.join(VERBS)} (erode --help says what each does)", file=sys.stderr)
            if near := nearest(verb or "", [*ErodeCLI.subcommands(), *VERBS]):
                print(f"did you mean {near}?", file=sys.stderr)
        raise


def _for_people() -> tuple[type[BaseException], ...]:
    """Exceptions whose message says all that matters."""
    return (ValueError, OSError, *_lightnings("MisconfigurationException"))


def _said_first(error: BaseException) -> BaseException:
    """What a class refused, without what jsonargparse says of all the other types that a value might have had."""
    while error.__cause__ is not None and _raised_in(error).startswith("jsonargparse"):
        error = error.__cause__
    return error


def _raised_in(error: BaseException) -> str:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")) if frames else ""


def _is_of_other_code(error: BaseException) -> bool:
    """Whether it went through code of the user and was not raised by us: then where it happened is what matters."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [str(frame.f_globals.get("__name__")).split(".")[0] == "erode" for frame in frames]
    libraries = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    theirs = [
        not own and not frame.f_code.co_filename.startswith((*libraries, "<"))
        for own, frame in zip(ours, frames, strict=True)
    ]
    return any(theirs) and not ours[-1]


def _lightnings(name: str) -> tuple[type[BaseException], ...]:
    """An exception of Lightning's; none where nothing has imported it, which would take seconds."""
    loaded = sys.modules.get("lightning.pytorch.utilities.exceptions")
    return () if loaded is None else (getattr(loaded, name),)
