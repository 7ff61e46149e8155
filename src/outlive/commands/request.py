"""`outlive request list · show · resolve · expire`: idempotency keys, and what came of them.

A request whose owner died is *unknown*: it is never repeated by itself. Find out what came of it,
then say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter, validators

from outlive.commands.client import At, ask, desk_of
from outlive.commands.control import who
from outlive.commands.exits import MISUSED, CommandFailed
from outlive.commands.listing import Listing, Watch, show
from outlive.commands.many import each
from outlive.commands.options import Limit, ListFormat, OrStdin, Reason
from outlive.commands.output import Format, document, lines, printable, time_of

if TYPE_CHECKING:
    from outlive.app import Outlive

commands = App(name="request", help="Look at idempotency keys; resolve or forget them.")


@commands.command(name="list")
def list_requests(
    *,
    state: Annotated[
        Literal["running", "done", "unknown"] | None, Parameter(name=["--state", "--status"])
    ] = None,
    limit: Limit = 50,
    at: At = None,
    output: ListFormat = "table",
    watch: Watch = False,
) -> None:
    """List idempotency keys, the newest first.

    Parameters
    ----------
    state
        Only those in this state; unknown: nobody knows what came of them.
    limit
        At most this many (1 to 100000).
    """

    async def question(app: Outlive) -> Listing:
        found = await desk_of(app).request_lines(state or "", limit)
        rows = [
            (
                line.id,
                line.state,
                f"{line.method} {line.route}".strip(),
                line.key,
                line.principal,
                str(line.status or ""),
                time_of(line.started),
            )
            for line in found
        ]
        heads = ("id", "state", "request", "key", "principal", "answer", "began")
        return Listing(heads, rows, [line.id for line in found], found)

    show(question, at, output, watch)


@commands.command(name="show")
def show_request(id: str, /, *, at: At = None, output: Format = "text") -> None:
    """Show one key.

    Parameters
    ----------
    id
        As listed.
    """
    found = ask(at, lambda app: desk_of(app).request(id))
    if output == "json":
        document(found)
        return
    lines(
        printable(line)
        for line in (
            f"{found.id}  {found.state}",
            f"  request    {found.method} {found.route}".rstrip(),
            f"  key        {found.key}",
            f"  principal  {found.principal} {found.tenant}".rstrip(),
            f"  answer     {found.status or '-'}",
            f"  began      {time_of(found.started)}",
            f"  kept until {time_of(found.expires)}",
        )
    )


@commands.command
def resolve(
    id: Annotated[str, OrStdin],
    /,
    *,
    status: Annotated[int | None, Parameter(validator=validators.Number(gte=200, lte=599))] = None,
    not_done: Annotated[bool, Parameter(negative="")] = False,
    reason: Reason = "",
    at: At = None,
) -> int:
    """Say what came of an unknown request.

    Parameters
    ----------
    id
        As listed; - for those on stdin, one a line.
    status
        It was carried out: repetitions get this status (200 to 599) and no body.
    not_done
        It was not: the next one is carried out.
    """
    if (status is None) != not_done:
        raise CommandFailed("say --status N if it was carried out, or --not-done", MISUSED)
    return each(
        id,
        at,
        lambda app, one: desk_of(app).request_resolve(one, status, who(), reason),
        "is resolved",
    )


@commands.command
def expire(id: Annotated[str, OrStdin], /, *, reason: Reason = "", at: At = None) -> int:
    """Forget a key: the next request with it is a first one.

    Parameters
    ----------
    id
        As listed; - for those on stdin, one a line.
    """
    return each(
        id, at, lambda app, one: desk_of(app).request_expire(one, who(), reason), "is forgotten"
    )
