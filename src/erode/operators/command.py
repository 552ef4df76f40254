"""``erode operators``: what there is to unlearn with, as the operators say it themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from .. import callbacks, lightning_modules
from ..operator_card import OperatorCard
from .tables import operators_markdown, terminal_table, write_pages


def operator_kinds() -> dict[str, type]:
    """Classes with a card of their own, by name: callbacks, and modules whose training unlearns.

    Example:
        >>> operator_kinds()["Retrain"].__module__
        'erode.callbacks.retrain'
    """
    offered = [(name, getattr(room, name)) for room in (callbacks, lightning_modules) for name in room.__all__]
    return {name: kind for name, kind in offered if isinstance(kind, type) and "card" in vars(kind)}


def operator_cards() -> dict[str, OperatorCard]:
    """Their cards, by name."""
    return {name: vars(kind)["card"] for name, kind in operator_kinds().items()}


def operators(format: Literal["table", "markdown"] = "table", docs: Path | None = None) -> str | None:
    """Show all unlearning operators: what they promise, train on, keep and cost, and where they come from.

    Args:
        format: a table for the terminal, or that of docs/operators.md.
        docs: folder of Markdown files; their generated parts are written anew, and nothing is shown.

    Returns:
        Markdown, or the names of the files that changed; None where the table is already on the screen.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    cards = operator_cards()
    if docs is not None:
        if not docs.is_dir():
            raise FileNotFoundError(f"{docs} is no folder; give the one with the Markdown files, e.g. --docs docs")
        return "\n".join(str(page) for page in write_pages(docs, cards)) or "every page is as the operators say"
    if format == "markdown":
        return operators_markdown(cards)
    Console(width=max(140, Console().width)).print(terminal_table(cards))
    return None
