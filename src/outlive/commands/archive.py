"""`outlive process archive …`: what was written of ended processes before they left the store.

    list FOLDER             one line each, those of the last days first; filters as in `list`
    show FOLDER ID          one process: states, steps, attempts, journal

Reads files only: no store, no service. A file that is cut off (its writer died) gives what is
whole, and is named on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cyclopts import App

from outlive.clock import Clock
from outlive.commands.exits import MISUSED, NOT_FOUND, CommandFailed
from outlive.commands.listing import listed
from outlive.commands.options import Limit, ListFormat
from outlive.commands.output import Format, document, lines
from outlive.commands.searching import Narrowing
from outlive.kinds.processes import FINAL, entries
from outlive.kinds.processes.archived import Archived, read
from outlive.kinds.processes.reports import Summary
from outlive.kinds.processes.search import search_of
from outlive.stores.lines import files_in, folder_at, lines_in

commands = App(name="archive", help="Read archives of ended processes.")


@commands.command(name="list")
def list_archived(
    folder: str,
    /,
    *,
    status: str | None = None,
    type: str | None = None,
    narrowing: Narrowing | None = None,
    limit: Limit = 50,
    output: ListFormat = "table",
) -> None:
    """List archived processes, those that ended on the last days first.

    Parameters
    ----------
    folder
        Where the service writes them: its `archive`.
    status
        Only those that ended so: done, failed, rolled_back or cancelled.
    type
        Only those of this type.
    limit
        At most this many (1 to 100000).
    """
    from outlive.commands.process import listing_of

    if status is not None and status not in FINAL:
        raise CommandFailed(f"{status!r} is no end; one of {', '.join(sorted(FINAL))}", MISUSED)
    search = search_of(status, type, **(narrowing or Narrowing()).narrowed(Clock()))
    found = (_summary(one) for one in _archived(folder, type))
    chosen = list(islice((line for line in found if search.holds(line)), limit))
    listed(listing_of(chosen), output)


@commands.command
def show(folder: str, id: str, /, *, output: Format = "text") -> None:
    """Show one archived process: its states, steps, attempts and journal.

    Parameters
    ----------
    folder
        Where the service writes them: its `archive`.
    id
        The public id, as in its Location.
    """
    from outlive.commands.process import story

    found = next((one for one in _archived(folder, None) if one.id == id), None)
    if found is None:
        raise CommandFailed(f"{id} is not in this archive", NOT_FOUND)
    view, journal = found.view(), entries(found.journal())
    if output == "json":
        document({"process": view, "journal": journal})
    else:
        lines(story(view, journal))


def _archived(folder: str, type: str | None) -> Iterator[Archived]:
    """The processes in the archive, those of the last days first, each once."""
    paths = files_in(folder_at(folder), f"{type or '*'}/*")
    torn: list[Path] = []
    ordered = sorted(paths, key=lambda path: path.name, reverse=True)
    try:
        yield from read(line for path in ordered for line in lines_in(path, torn))
    finally:  # also where no more of them are asked for
        for path in torn:
            said = f"outlive: {path} is cut off or damaged; the rest of it was not read"
            print(said, file=sys.stderr)


def _summary(one: Archived) -> Summary:
    return Summary(
        one.id, one.type, one.version, one.status, one.started, one.ended, "", None, one.tags
    )
