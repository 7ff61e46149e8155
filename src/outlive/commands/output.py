"""What a command prints: a table for eyes, lines for a pipe, JSON for programs.

On a terminal a table is drawn and coloured; into a pipe the same rows go plain, one a line, columns
aligned by spaces, so that grep, cut and awk do what one expects. JSON is one document.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from outlive.clock import rfc3339

if TYPE_CHECKING:
    from rich.table import Table


Format = Annotated[
    Literal["text", "json"],
    Parameter(name=["--output", "-o"], help="text for people, json for programs."),
]
STYLES = {
    "done": "green",
    "ok": "green",
    "running": "cyan",
    "waiting": "cyan",
    "compensating": "yellow",
    "paused": "yellow",
    "warn": "yellow",
    "rolled_back": "magenta",
    "cancelled": "magenta",
    "failed": "red",
    "stuck": "bold red",
    "FAIL": "bold red",
}
"""The colours of words that say how it stands."""


LINE_CHARACTERS_MAX = 1000
TIMES = frozenset("at began changed due ended expires made seen since started time until".split())
"""Fields that hold a time in integer microseconds; 0 where there is none."""


def one_line(message: str) -> str:
    """`message` on one line that a terminal can show, at most `LINE_CHARACTERS_MAX` of it."""
    joined = " ".join(message.split())
    shown = printable(joined[: LINE_CHARACTERS_MAX + 1])
    return shown if len(shown) <= LINE_CHARACTERS_MAX else shown[:LINE_CHARACTERS_MAX] + "…"


def printable(text: str) -> str:
    """`text` without what would move the cursor or end the line: a browser's name for itself, a
    tag or a subject may be anybody's choice."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def time_of(micros: int | None) -> str:
    """A time to the second, as people read it; empty for none."""
    return "" if not micros else rfc3339(micros)[:19] + "Z"


def document(value: Any) -> None:
    """Print `value` as one JSON document: readable, integers exact, times in RFC 3339."""
    print(text_of(value))


def text_of(value: Any) -> str:
    """The document that is printed, without the end of its last line."""
    return msgspec.json.format(msgspec.json.encode(dated(value)), indent=2).decode()


def dated(value: Any) -> Any:
    """`value` with every struct as a mapping and every time in it as RFC 3339 in UTC."""
    if isinstance(value, msgspec.Struct):
        return {
            name: _time(found) if name in TIMES and isinstance(found, int) else dated(found)
            for name, found in msgspec.structs.asdict(value).items()
        }
    if isinstance(value, dict):
        return {name: dated(found) for name, found in value.items()}
    return [dated(found) for found in value] if isinstance(value, list | tuple) else value


def _time(micros: int) -> str | None:
    return rfc3339(micros) if micros else None


def lines(texts: Iterable[str]) -> None:
    """Print each text on a line of its own."""
    for text in texts:
        print(text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows`, drawn on a terminal, plain and without heads into a pipe."""
    if not sys.stdout.isatty():
        sys.stdout.write(plain_table(rows))
        return
    from rich.console import Console

    Console().print(drawn_table(heads, rows))


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """`rows`, one a line, their columns aligned by spaces."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    made = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        made.append("  ".join(cells).rstrip() + "\n")
    return "".join(made)


def drawn_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """`rows` under their `heads`, as a terminal shows them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        drawn.add_column(head, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(printable(cell), style=STYLES.get(cell, "")) for cell in row))
    return drawn
