"""The page: its template and its parts. Everything that comes from a file is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from .._version import __version__


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Args:
        title: plain text.
        html: made by the functions of this module.
    """

    title: str
    html: str


Missing = list[tuple[str, str]]
"""What a folder could hold but does not: file, and how to get it."""


def page(title: str, sections: Sequence[Section], missing: Missing) -> str:
    """The whole page.

    Args:
        title: plain text.
        sections: from top to bottom.
        missing: listed at the end.

    Example:
        >>> "<h1>a &lt; b</h1>" in page("a < b", [Section("s", paragraph("text"))], [])
        True
    """
    parts = [f"<section><h2>{escape(section.title)}</h2>{section.html}</section>" for section in sections]
    if missing:
        items = "".join(f"<li><code>{escape(name)}</code>: {escape(remedy)}</li>" for name, remedy in missing)
        parts.append(f'<section><h2>Not in this folder</h2><ul class="missing">{items}</ul></section>')
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    foot = f"erode {__version__} · page written {made}"
    return TEMPLATE.substitute(title=escape(title), body="\n".join(parts), foot=escape(foot))


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def facts(content: Mapping[str, Any]) -> str:
    """A nested mapping as a list of terms; long digests wrap instead of widening the page.

    Example:
        >>> facts({"steps": 3})
        '<dl><dt>steps</dt><dd>3</dd></dl>'
    """
    rows = [f"<dt>{escape(words(key))}</dt><dd>{_value(value)}</dd>" for key, value in content.items()]
    return f"<dl>{''.join(rows)}</dl>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table whose first column names the row and whose other columns are numbers.

    Example:
        >>> table(["method", "Dice"], [["retrain", "0.85"]]).count("<td>")
        1
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = ""
    for name, *cells in rows:
        numbers = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body += f'<tr><th scope="row">{escape(name)}</th>{numbers}</tr>'
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    # tabindex: a table wider than the screen must scroll from the keyboard too.
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption or header[0])}">'
        f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def picture(path: Path, alt: str, caption: str = "") -> str:
    """A PNG within the page itself.

    Args:
        path: the file.
        alt: what the picture shows, for those who do not see it.
        caption: written below.

    Raises:
        ValueError: if the file is no PNG.
    """
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{path} is no complete PNG; remove it, or run again what drew it")
    code = base64.b64encode(content).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{code}">{below}</figure>'


def folded(title: str, text: str) -> str:
    """A file's text behind a click; print shows the title only."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def words(name: str) -> str:
    """A key as people read it.

    Example:
        >>> words("reset_buffers")
        'reset buffers'
    """
    return name.replace("_", " ")


def number(value: float, digits: int = 3) -> str:
    """A number for a table, a dash where it is undefined.

    Example:
        >>> number(0.12345), number(float("nan")), number(12)
        ('0.123', '–', '12')
    """
    if value != value:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return facts(value) if value else "none"
    if isinstance(value, (list, tuple)):
        return escape(", ".join(map(str, value))) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return f"<code>{value}</code>"
    return escape(str(value))  # floats whole: some are what a promise rests on


TEMPLATE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { --ink: #1d2327; --soft: #5b6670; --line: #dde2e6; --paper: #fff; --tint: #f5f7f8; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8eb; --soft: #9aa7b1; --line: #363f46; --paper: #15191c;
    --tint: #1e2428; --accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.5rem 1.25rem 3rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem;
  letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 2px solid var(--accent); }
p { max-width: 44rem; margin: .5rem 0; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem; }
figcaption, caption, footer { color: var(--soft); font-size: .875rem; }
figcaption { margin-top: .4rem; max-width: 44rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 50%;
  font-size: .88rem; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; border-bottom-width: 2px;
  white-space: normal; vertical-align: bottom; }
tbody th { font-weight: 500; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) minmax(0, 1fr);
  gap: .25rem 1.25rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
dl dl { gap: .1rem 1rem; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .84em; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: 1rem;
  overflow-x: auto; line-height: 1.45; }
summary { cursor: pointer; color: var(--accent); }
.missing { color: var(--soft); padding-left: 1.1rem; }
.missing li { margin: .2rem 0; }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line); }
@media (max-width: 36rem) {
  body { padding-top: 1.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; padding-left: .8rem; }
  figure { overflow-x: auto; }
  img { max-width: none; width: 44rem; }
}
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --tint: #fff; --accent: #444; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, table, dl { break-inside: avoid; }
  h2 { break-after: avoid; }
  details { display: none; }
  .wide { overflow: visible; }
  th, td { white-space: normal; padding: .3rem .4rem; }
}
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
<footer>$foot</footer>
</body>
</html>
""")
