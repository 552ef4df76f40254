"""Tables of operators, from their own cards: for the terminal, and for the pages under ``docs``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from rich.table import Column, Table

from ..files import write_text
from ..operator_card import FAMILIES, REQUESTS, Guarantee, Manipulation, Need, OperatorCard
from ..tables import markdown_table

Cards = Mapping[str, OperatorCard]
"""Cards by the name of the class."""

_STYLES = {"exact": "green", "certified": "cyan", "approximate": "yellow"}
_BLOCK = re.compile(r"(<!-- generated: (\w+) ?([\w ]*)-->\n).*?(<!-- end -->)", re.DOTALL)


def by_guarantee(cards: Cards) -> dict[str, OperatorCard]:
    """The strongest promise first; names in the alphabet."""
    order = get_args(Guarantee)
    return dict(sorted(cards.items(), key=lambda item: (order.index(item[1].guarantee), item[0].lower())))


def terminal_table(cards: Cards) -> Table:
    """What people compare operators by."""
    titles = ("guarantee", "trains on", "stores", "costs", "from")
    table = Table(Column("operator", no_wrap=True), *titles, title="unlearning operators")
    for name, card in by_guarantee(cards).items():
        promise = f"[{_STYLES[card.guarantee]}]{card.promise}[/]"
        words = (card.trains_on, card.stores, card.costs, card.paper)
        table.add_row(name, promise, *(word.replace("`", "") for word in words))
    return table


def operators_markdown(cards: Cards, pages: str = "operators") -> str:
    """The table of ``docs/operators.md``; links lead into the folder ``pages``."""
    rows = (
        (f"[`{name}`]({pages}/{card.page})", card.promise, card.trains_on, card.stores, card.costs)
        for name, card in by_guarantee(cards).items()
    )
    return markdown_table(("operator", "guarantee", "trains on", "stores", "costs"), rows)


def head_markdown(cards: Cards, *names: str) -> str:
    """The head of one operator's page; of two that share a page, a column each.

    Raises:
        ValueError: for a name that no operator has.
    """
    unknown = [name for name in names if name not in cards]
    if unknown or not names:
        raise ValueError(f"no operator is called {', '.join(unknown) or 'nothing'}; there are {', '.join(cards)}")
    shown = [cards[name] for name in names]
    lines: tuple[tuple[str, Callable[[OperatorCard], str]], ...] = (
        ("paper", lambda card: _linked(card.paper)),
        ("guarantee", lambda card: card.promise),
        ("trains on", lambda card: card.trains_on),
        ("needs", lambda card: ", ".join(card.needs) or "nothing more"),
        ("stores", lambda card: card.stores),
        ("costs", lambda card: card.costs),
        ("configuration", lambda card: f"`configs/{card.config}`"),
    )
    titles = ("", *(f"`{name}`" for name in names)) if len(names) > 1 else ("", "")
    return markdown_table(titles, ((title, *map(say, shown)) for title, say in lines))


def taxonomy_markdown(cards: Cards) -> str:
    """Where each operator stands in the families of Nguyen et al.; techniques without an operator are shown too."""
    rows = (
        (family, technique, _names(cards, technique, lambda card: (card.technique,)))
        for family, techniques in FAMILIES.items()
        for technique in techniques
    )
    return markdown_table(("family", "technique", "operators"), rows)


def manipulation_markdown(cards: Cards) -> str:
    """What each operator changes, in the terms of Xu et al."""
    rows = ((word, _names(cards, word, lambda card: (card.manipulation,))) for word in get_args(Manipulation))
    return markdown_table(("what is changed", "operators"), rows)


def guarantees_markdown(cards: Cards) -> str:
    """Operators by what they promise."""
    rows = ((word, _names(cards, word, lambda card: (card.guarantee,))) for word in get_args(Guarantee))
    return markdown_table(("guarantee", "operators"), rows)


def requests_markdown(cards: Cards) -> str:
    """Which kinds of removal request each operator answers."""
    rows = ((f"{word}: {says}", _names(cards, word, lambda card: card.requests)) for word, says in REQUESTS.items())
    return markdown_table(("request", "operators"), rows)


def needs_markdown(cards: Cards) -> str:
    """What has to be at hand, one column each."""
    needs = get_args(Need)
    rows = (
        (f"`{name}`", *("×" if need in card.needs else "" for need in needs))
        for name, card in by_guarantee(cards).items()
    )
    return markdown_table(("operator", *needs), rows)


_KINDS: dict[str, Callable[..., str]] = {
    "operators": operators_markdown,
    "card": head_markdown,
    "taxonomy": taxonomy_markdown,
    "manipulation": manipulation_markdown,
    "guarantees": guarantees_markdown,
    "requests": requests_markdown,
    "needs": needs_markdown,
}


def filled(text: str, cards: Cards) -> str:
    r"""A page with every generated part written anew: what stands between ``<!-- generated: KIND -->`` and its end.

    Args:
        text: the page, in Markdown.
        cards: of all operators.

    Raises:
        ValueError: for a kind or an operator that is not known.

    Example:
        >>> from erode.callbacks import Retrain
        >>> filled("<!-- generated: guarantees -->\n<!-- end -->", {"Retrain": Retrain.card}).splitlines()[3]
        '| exact | `Retrain` |'
    """

    def written(found: re.Match[str]) -> str:
        begin, kind, words, end = found.groups()
        if kind not in _KINDS:
            raise ValueError(f"a page asks for a generated part {kind!r}; there are {', '.join(_KINDS)}")
        return f"{begin}{_KINDS[kind](cards, *words.split())}\n{end}"

    return _BLOCK.sub(written, text)


def write_pages(folder: Path, cards: Cards) -> list[Path]:
    """Write the generated parts of all Markdown files below a folder anew; returns the files that changed."""
    changed = []
    for page in sorted(folder.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = filled(text, cards)
        if new != text:
            changed.append(write_text(page, new))
    return changed


def _linked(paper: str) -> str:
    paper = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)
    return re.sub(r"theory §\d", r"[\g<0>](../theory.md)", paper)


def _names(cards: Cards, word: str, says: Callable[[OperatorCard], tuple[str, ...]]) -> str:
    """Operators whose cards say a word."""
    return ", ".join(f"`{name}`" for name, card in by_guarantee(cards).items() if word in says(card)) or "–"
