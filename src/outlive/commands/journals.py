"""`outlive process export · import · diff`: whole journals, out of a store, into one, on new code.

    export ID > FILE                       the journal of one process, as lines of JSON
    import FILE                            take it into another store: paused, or ended as it had
    diff --against MODULE:APP [ID|FILE …]  would what is under way go on with that code?

With `--context` the store is that of a service elsewhere, asked over HTTP (web/journals.py).

`diff` reads the store and owns nothing in it, calls no step and writes nothing. It fails when any
process would drift, or has no body there; so it can stand in front of a deploy.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter, validators

from outlive.commands import control
from outlive.commands.client import At, Where, address_of, ask
from outlive.commands.exits import DONE, FAILED, MISUSED, NOT_FOUND, CommandFailed, kind_of
from outlive.commands.options import OrStdin, Reason
from outlive.commands.output import Format, document, lines, printable
from outlive.commands.target import named, service
from outlive.errors import NoSuchProcess, NothingToExport, OutliveError, ProcessGone
from outlive.kinds.processes import FINAL, STATUSES

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes.difference import Difference

PAGE = 200
AT_ONCE = 8
"""Journals that are read and replayed at one time."""
LIMIT_MAX = 100_000

Within = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=3600))]
Limit = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=LIMIT_MAX))]


def export(id: str, /, *, redact: str | None = None, at: At = None) -> None:
    """Write the journal of a process to stdout, as lines of JSON: whole, or nothing.

    A service elsewhere leaves out what it redacts.

    Parameters
    ----------
    id
        The public id.
    redact
        MODULE:FUNCTION, called with the kind and the data of each event; what it returns is
        written in place of the data.
    """
    hook: Any = None if redact is None else named(redact)
    text = ask(at, lambda app: app.export_journal(id, redact=hook))
    sys.stdout.write(text)


def take_in(
    file: Annotated[str, OrStdin],
    /,
    *,
    within: Within = 30.0,
    why: Reason = "",
    at: At = None,
) -> None:
    """Take a process into this store, with its id and its journal: paused, or ended as it had.

    A node carries it out: the one that owns its shard, at once or when it comes. Let it go on with
    `outlive process retry ID`; end it first where it comes from.

    Parameters
    ----------
    file
        What `export` wrote; - for stdin.
    within
        Seconds to wait for that node (0 to 3600; over a context to 60).
    why
        Kept with your name in the activity log; a service elsewhere demands it.
    """
    text = _piped() if file == "-" else _text_of(Path(file))
    try:
        id = ask(
            at, lambda app: app.import_journal(text, within=within, who=control.who(), why=why)
        )
    except TimeoutError as error:
        raise CommandFailed(f"{error}; it is kept, and done when a node runs", FAILED) from None
    lines((f"{id} is imported",))


def diff(
    *which: str,
    against: str,
    status: str | None = None,
    type: str | None = None,
    limit: Limit = 10_000,
    at: At = None,
    output: Format = "text",
) -> int:
    """Replay recorded journals on the code given, performing nothing: would the processes go on?

    Fails (1) when one would drift or has no body there. Without ID or FILE: every process of the
    store that has not ended.

    Parameters
    ----------
    which
        Public ids, or files that `export` wrote.
    against
        MODULE:APP, the code as it is to be deployed.
    status
        Only those in this state.
    type
        Only those of this type.
    limit
        At most this many (1 to 100000), the newest of each status.
    """
    if status is not None and status not in STATUSES:
        raise CommandFailed(f"{status!r} is no status; one of {', '.join(STATUSES)}", MISUSED)
    where = at or Where()
    elsewhere = where.chosen
    if where.store is not None:
        os.environ["OUTLIVE_STORE"] = where.store
    code = cast("Outlive", service(against))
    files = [name for name in which if Path(name).is_file()]
    ids = [name for name in which if name not in files]
    wanted = [status] if status else [one for one in STATUSES if one not in FINAL]
    found = asyncio.run(_of_files(code, files))
    if ids or not which:

        async def question(app: Outlive) -> list[Difference]:
            picked = ids or await chosen(app, wanted, type, limit)
            return await compared(code, app, picked, strict=bool(ids))

        if elsewhere is None:
            where = Where(address_of(where.store or code.store_address))
        found += ask(where, question)
    if output == "json":
        document(found)
    else:
        lines(printable(line) for line in _said(found))
    return DONE if all(one.fits for one in found) else FAILED


async def chosen(app: Outlive, wanted: list[str], type: str | None, limit: int) -> list[str]:
    """The ids of at most `limit` processes in one of the states `wanted`, the newest of each."""
    ids: dict[str, None] = {}
    for status in wanted:
        cursor = ""
        while len(ids) < limit:
            page, cursor = await app.processes(status, type, PAGE, cursor)
            ids |= dict.fromkeys(item.id for item in page)
            if not cursor:
                break
    return [*ids][:limit]


async def _of_files(code: Outlive, files: Iterable[str]) -> list[Difference]:
    return [await code.diff(_text_of(Path(file))) for file in files]


async def compared(
    code: Outlive, app: Outlive, ids: Iterable[str], *, strict: bool
) -> list[Difference]:
    """The differences of what has begun; `strict`: each of them must be there."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(id: str) -> Difference | None:
        async with gate:
            try:
                return await code.diff(await app.export_journal(id))
            except (OutliveError, CommandFailed) as error:
                kind = kind_of(error)
                if issubclass(kind, NothingToExport):
                    return None  # it begins with the new code
                if issubclass(kind, (NoSuchProcess, ProcessGone)) and not strict:
                    return None  # its retention was over meanwhile
                raise

    found = await asyncio.gather(*(one(id) for id in ids))
    return [each for each in found if each is not None]


def _piped() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CommandFailed(f"what is piped in is no journal: {error}", MISUSED) from None


def _text_of(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} cannot be read: {error}", NOT_FOUND) from None


def _said(found: list[Difference]) -> Iterator[str]:
    for one in found:
        if not one.fits:
            yield f"{one.verdict}  {one.id}  {one.type} v{one.version}  {one.status}"
            yield f"    {one.detail}"
    counts = Counter(one.verdict for one in found)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    yield f"{len(found)} compared" + (f": {said}" if said else "")
