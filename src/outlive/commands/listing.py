"""A list as a command prints it: drawn or plain, as JSON, as ids, as CSV; once, or again and again.

`--watch` looks every second. A terminal is drawn over in place, without being cleared, and gets its
old contents back at the end; into a pipe, a file or in another format than a table each *change*
is printed as one block, followed by an empty line. It ends with Ctrl-C, as 130.
"""

from __future__ import annotations

import asyncio
import csv
import io
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from outlive.commands.client import At, ask
from outlive.commands.output import drawn_table, plain_table, text_of

if TYPE_CHECKING:
    from outlive.app import Outlive

WATCH_SECONDS = 1.0
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How that begins which a spreadsheet takes for a formula."""
T = TypeVar("T")

Watch = Annotated[
    bool,
    Parameter(
        name="--watch",
        negative="",
        help="Look again every second: a terminal is drawn over, a pipe gets each change.",
    ),
]


@dataclass(frozen=True)
class Listing:
    """A list: its columns, its rows as people read them, an id for each, and the things."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    ids: Sequence[str]
    things: Any

    def text(self, output: str) -> str:
        """It in one of the formats, plain, with a line end after each line."""
        if output == "json":
            return text_of(self.things) + "\n"
        if output == "ids":
            return "".join(f"{id}\n" for id in self.ids)
        if output == "csv":
            file = io.StringIO()
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.heads)
            writer.writerows(map(_no_formula, row) for row in self.rows)
            return file.getvalue()
        return plain_table(self.rows)


def _no_formula(cell: str) -> str:
    """`cell`, with a ' before what a spreadsheet would carry out: a key, a tag or a subject may be
    anybody's choice. A number stays one."""
    if not cell.startswith(_FORMULA) or cell in _FORMULA:
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def listed(listing: Listing, output: str) -> None:
    """Print a list once."""
    if output == "table" and sys.stdout.isatty():
        from rich.console import Console

        Console().print(drawn_table(listing.heads, listing.rows))
    else:
        sys.stdout.write(listing.text(output))


def show(
    look: Callable[[Outlive], Awaitable[Listing]], at: At, output: str, watch: bool = False
) -> None:
    """Ask for a list and print it, with `watch` again and again."""
    if watch:
        watched(
            look,
            at,
            lambda listing: listing.text(output),
            (lambda listing: drawn_table(listing.heads, listing.rows))
            if output == "table"
            else None,
        )
    else:
        listed(ask(at, look), output)


def watched(
    look: Callable[[Outlive], Awaitable[T]],
    at: At,
    text: Callable[[T], str],
    drawn: Callable[[T], Any] | None,
) -> None:
    """Look every second until Ctrl-C: `drawn` on a terminal, else each change as `text`."""

    async def on_terminal(app: Outlive) -> None:
        from rich.live import Live

        assert drawn is not None
        with Live(drawn(await look(app)), screen=True, auto_refresh=False) as live:
            while True:
                live.refresh()
                await asyncio.sleep(WATCH_SECONDS)
                live.update(drawn(await look(app)))

    async def in_blocks(app: Outlive) -> None:
        before = None
        while True:
            found = text(await look(app))
            if found != before:
                sys.stdout.write(found + "\n")
                sys.stdout.flush()
                before = found
            await asyncio.sleep(WATCH_SECONDS)

    ask(at, on_terminal if drawn is not None and sys.stdout.isatty() else in_blocks)
