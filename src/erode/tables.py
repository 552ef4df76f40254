"""Tables: in Markdown, and in the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> str:
    """Lines of cells as a table.

    Args:
        head: titles.
        rows: cells of each line.
        numbers: the columns that hold numbers, which are set to the right.

    Example:
        >>> print(markdown_table(["method", "Dice"], [["coarse | box", "0.5"]], numbers=range(1, 2)))
        | method | Dice |
        | --- | ---: |
        | coarse &#124; box | 0.5 |
    """
    rule = ["---:" if column in numbers else "---" for column in range(len(head))]
    lines = [_line(head), _line(rule), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def show_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Collection[int] = (),
    *,
    title: str | None = None,
    caption: str | None = None,
    width: int = 110,
    notes: Iterable[str] = (),
) -> None:
    """Print lines of cells as a table.

    Args:
        head: titles.
        rows: cells of each line.
        numbers: the columns that hold numbers, which are set to the right.
        title: above the table.
        caption: below it.
        width: of the terminal, at least, in characters.
        notes: lines that follow.
    """
    table = Table(*head, title=title, caption=caption)
    for column in numbers:
        table.columns[column].justify = "right"
    for row in rows:
        table.add_row(*row)
    # Without markup, or [nats] were a tag.
    console = Console(width=max(width, Console().width), markup=False, highlight=False)
    console.print(table)
    for note in notes:
        console.print(note)


def cells_of(page: str) -> list[list[str]]:
    """The cells of a page's table as `markdown_table` wrote them, titles first; nothing where it has none.

    Example:
        >>> cells_of(markdown_table(["method", "Dice"], [["coarse | box", "0.5"]]))
        [['method', 'Dice'], ['coarse | box', '0.5']]
    """
    lines = [line[2:-2] for line in page.splitlines() if line.startswith("| ")]
    cells = [[cell.replace("&#124;", "|") for cell in line.split(" | ")] for line in lines]
    return cells[:1] + cells[2:]
