"""`outlive process …`: what the processes in a store do, and what a person may ask of one.

    archive …               read what was written of processes before they left the store
    list                    the newest first; filters by status, type, version, tags and times
    show ID                 one process: states, steps, attempts, take-overs, children
    undelivered             published events that did not reach a subscriber, and why
    signal ID NAME [JSON]   give it the signal it waits for (or will)
    notify ID               tell its end once more to whoever asked to be told
    export ID · import FILE · diff --against MODULE:APP …     whole journals (journals.py)
    cancel, pause, resume, retry, skip, deadline, fork      what operators ask (control.py)

The service need not run for any of this. What is asked is durable when the command ends.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter, validators

from outlive.clock import MICROS, Clock, rfc3339
from outlive.commands import archive, control
from outlive.commands.client import At, ask
from outlive.commands.exits import MISUSED, CommandFailed
from outlive.commands.listing import Listing, Watch, watched
from outlive.commands.listing import show as show_list
from outlive.commands.many import each
from outlive.commands.options import Limit, ListFormat, OrStdin
from outlive.commands.output import Format, lines, printable, text_of, time_of
from outlive.commands.searching import Narrowing
from outlive.kinds.processes import STATUSES
from outlive.kinds.processes.search import search_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from outlive.app import Outlive
    from outlive.kinds.processes import Entry, StepView, Summary, View

PAGE = 200
UNDELIVERED_MAX = 1000
CHILDREN_SHOWN = 50

commands = App(
    name="process", help="Look at processes; signal, cancel, pause, retry, skip and fork them."
)
for _verb, _function, _help in (
    ("export", "export", "Write the journal of a process to stdout."),
    ("import", "take_in", "Take a process from an exported journal into this store."),
    ("diff", "diff", "Would the processes go on with other code? Replays their journals."),
):
    commands.command(f"outlive.commands.journals:{_function}", name=_verb, help=_help)

commands.command(archive.commands)


@commands.command(name="list")
def list_processes(
    *,
    status: Annotated[str | None, Parameter(name=["--status", "--state"])] = None,
    type: str | None = None,
    narrowing: Narrowing | None = None,
    unnotified: bool = False,
    limit: Limit = 50,
    at: At = None,
    output: ListFormat = "table",
    watch: Watch = False,
) -> None:
    """List processes, the newest first.

    Parameters
    ----------
    status
        Only those in this state: queued, running, waiting, paused, stuck, done …
    type
        Only those of this type.
    unnotified
        Only those that have ended without anybody being told who should be; at most 1000.
    limit
        At most this many (1 to 100000).
    """
    if status is not None and status not in STATUSES:
        raise CommandFailed(f"{status!r} is no status; one of {', '.join(STATUSES)}", MISUSED)

    given = narrowing or Narrowing()
    given.narrowed(Clock())  # says at once what is wrong with it

    async def question(app: Outlive) -> Listing:
        if unnotified:
            search = search_of(status, type, **given.narrowed(Clock()))
            untold = await app.unnotified(UNDELIVERED_MAX)
            return listing_of([line for line in untold if search.holds(line)][:limit])
        found: list[Summary] = []
        narrowed = given.narrowed(Clock())
        cursor = ""
        while len(found) < limit:
            page = min(PAGE, limit - len(found))
            more, cursor = await app.processes(status, type, page, cursor, **narrowed)
            found += more
            if not cursor:
                break
        return listing_of(found)

    show_list(question, at, output, watch)


def listing_of(found: list[Summary]) -> Listing:
    """Processes as a list is printed."""
    heads = ("id", "type", "status", "started", "changed", "waits for", "tags")
    return Listing(heads, [_row(item) for item in found], [item.id for item in found], found)


@commands.command
def show(
    id: str,
    /,
    *,
    era: int | None = None,
    at: At = None,
    output: Format = "text",
    watch: Watch = False,
) -> None:
    """Show one process: its states, steps, attempts and take-overs.

    Parameters
    ----------
    id
        The public id, as in its Location.
    era
        Of an endless process: whose journal is shown, that of the era under way without it.
    """

    async def question(app: Outlive) -> tuple[View, list[Entry]]:
        return await app.view(id), await app.journal(id, era=era)

    def text(found: tuple[View, list[Entry]]) -> str:
        if output == "json":
            return text_of({"process": found[0], "journal": found[1]}) + "\n"
        return "".join(f"{line}\n" for line in story(*found))

    if not watch:
        sys.stdout.write(text(ask(at, question)))
        return

    def drawn(found: tuple[View, list[Entry]]) -> RenderableType:
        from rich.text import Text

        return Text(text(found))

    watched(question, at, text, None if output == "json" else drawn)


@commands.command
def signal(
    id: str,
    name: str,
    payload: str = "null",
    /,
    *,
    key: str | None = None,
    app: str | None = None,
    at: At = None,
) -> None:
    """Give a process the signal it waits for, or will wait for.

    Parameters
    ----------
    id
        The public id.
    name
        The signal, as declared by the process.
    payload
        What it carries, as JSON.
    key
        A name for this signal: the same one again is taken once.
    app
        MODULE:APP, to check the name and the payload against what it declares; without it both
        are taken as they are.
    """
    ask(at, lambda asked: asked.signal(id, name, payload.encode(), key=key), app)
    lines((f"{id} has the signal {name}",))


@commands.command
def notify(id: Annotated[str, OrStdin], /, *, at: At = None) -> int:
    """Tell the end of a process once more, to whoever asked to be told.

    Parameters
    ----------
    id
        The public id; - for those on stdin, one a line.
    """
    return each(
        id, at, lambda app, one: app.notify(one, who=control.who()), "has its end told once more"
    )


@commands.command
def undelivered(
    *,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1000))] = 100,
    at: At = None,
    output: ListFormat = "table",
    watch: Watch = False,
) -> None:
    """Show published events that did not reach one of their subscribers, and why.

    Parameters
    ----------
    limit
        At most this many (1 to 1000).
    """

    async def question(app: Outlive) -> Listing:
        found = await app.undelivered(limit)
        rows = [(kept.event, kept.subscriber, time_of(kept.at), kept.why) for kept in found]
        heads = ("event", "subscriber", "at", "why")
        return Listing(heads, rows, [kept.event for kept in found], found)

    show_list(question, at, output, watch)


control.register(commands)


def _row(item: Summary) -> tuple[str, ...]:
    kind = f"{item.type} v{item.version}"
    until = f" until {time_of(item.due)}" if item.due else ""
    waits = item.waits_for and f"{item.waits_for}{until}"
    tags = " ".join(f"{name}={value}" for name, value in item.tags.items())
    return item.id, kind, item.status, time_of(item.started), time_of(item.changed), waits, tags


def story(view: View, journal: list[Entry]) -> Iterator[str]:
    """Everything about a process, line by line; what an error says moves no cursor."""
    for told in _story(view, journal):
        for line in told.split("\n"):
            yield printable(line)


def _story(view: View, journal: list[Entry]) -> Iterator[str]:
    era = f", era {view.era}" if view.era > 1 else ""
    yield f"{view.id}  {view.type} v{view.version}{era}  {view.status}"
    if (place := view.standing) is not None:
        yield f"  in line    {place.line}, {place.ahead} before it: {place.why}"
    if view.forked_from:
        yield f"  forked from  {view.forked_from}"
    for fork in view.forks:
        yield f"  forked as    {fork}"
    if view.waits_for:
        until = f" until {time_of(view.due)}" if view.due else ""
        yield f"  waits for  {view.waits_for}{until}"
    yield f"  started    {rfc3339(view.started)}"
    if view.ended is not None:
        took = (view.ended - view.started) / MICROS
        yield f"  ended      {rfc3339(view.ended)} (after {took:.3f} s)"
    if view.parent:
        yield f"  parent     {view.parent}"
    for child in view.children[:CHILDREN_SHOWN]:
        yield f"  child      {child.id}  {child.type}  {child.status}"
    if len(view.children) > CHILDREN_SHOWN:
        yield f"  …and {len(view.children) - CHILDREN_SHOWN} more children: see the journal"
    if view.tags:
        yield "  tags       " + ", ".join(f"{name}={value}" for name, value in view.tags.items())
    yield f"  node       {view.node or '-'}, epoch {view.epoch}, take-overs {view.takeovers}"
    if (notice := view.notice) is not None:
        said = f", {notice.attempts} attempts: {notice.said}" if notice.attempts else ""
        yield f"  tells      {notice.url} ({notice.status}{said})"
    yield f"  data       {bytes(view.data).decode()}"
    if view.result is not None:
        yield f"  result     {bytes(view.result).decode()}"
    if view.failure is not None:
        yield f"  failure    {view.failure.type}: {view.failure.message}"
    yield "\nstates"
    for past in view.history:
        yield f"  {rfc3339(past.at)}  {past.status:<12}  {past.why}".rstrip()
    yield "\nsteps"
    for step in view.steps:
        yield from _step(step)
    yield "\njournal"
    for entry in journal:
        yield f"  {entry.n:>4}  {rfc3339(entry.at)}  {entry.text}"


def _step(step: StepView) -> Iterator[str]:
    took = "" if step.ended is None else f"  {(step.ended - step.began) / MICROS:.3f} s"
    yield f"  {rfc3339(step.began)}  {step.kind:<8}  {step.name}  {step.outcome}{took}"
    if len(step.attempts) < 2 and step.error is None:
        return
    for attempt in step.attempts:
        why = f": {attempt.error.type}: {attempt.error.message}" if attempt.error else ""
        where = f" on {attempt.node}" if attempt.node else ""
        yield f"      attempt {attempt.number}{where} {attempt.outcome}{why}"
