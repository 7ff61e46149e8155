"""`outlive breaker list · show · force · release · reset`: how what a service calls stands.

What is done here holds for every instance, within a second or so, and is kept with who and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from outlive.commands.client import At, ask, desk_of
from outlive.commands.control import who
from outlive.commands.listing import Listing, Watch, show
from outlive.commands.many import each
from outlive.commands.options import Limit, ListFormat, OrStdin, Reason
from outlive.commands.output import Format, document, lines, printable, time_of

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.breakers.standing import Action

commands = App(name="breaker", help="Look at breakers; hold them open or closed, reset them.")


@commands.command(name="list")
def list_breakers(
    *, limit: Limit = 50, at: At = None, output: ListFormat = "table", watch: Watch = False
) -> None:
    """List the dependencies of which anything bad was heard, and how they stand.

    Parameters
    ----------
    limit
        At most this many (1 to 100000).
    """

    async def question(app: Outlive) -> Listing:
        found = await desk_of(app).breaker_lines(limit)
        rows = [
            (
                line.name,
                line.state,
                time_of(line.until if line.state == "open" else None),
                time_of(line.changed),
                line.why,
            )
            for line in found
        ]
        heads = ("name", "state", "until", "changed", "why")
        return Listing(heads, rows, [line.name for line in found], found)

    show(question, at, output, watch)


@commands.command(name="show")
def show_breaker(name: str, /, *, at: At = None, output: Format = "text") -> None:
    """Show one: how it stands, when it turned, what operators did.

    Parameters
    ----------
    name
        As it is declared; with a part, as listed.
    """
    from outlive.kinds.breakers.standing import state_of

    found = ask(at, lambda app: desk_of(app).breaker(name))
    if output == "json":
        document(found)
        return
    notes = sorted((*found.turns, *found.controls), key=lambda note: note.time)
    lines([f"{name}  {state_of(found)}"])
    said = (f"  {time_of(note.time)}  {note.what}  {note.who}  {note.why}" for note in notes)
    lines(printable(line.rstrip()) for line in said)


@commands.command
def force(
    name: Annotated[str, OrStdin],
    state: Annotated[Literal["open", "closed"], Parameter(help="open: call nobody; closed: all.")],
    /,
    *,
    reason: Reason = "",
    at: At = None,
) -> int:
    """Hold a dependency open (nobody is called) or closed (everybody), until it is released.

    Parameters
    ----------
    name
        As it is declared; - for those on stdin, one a line.
    """
    action: Action = "force open" if state == "open" else "force closed"
    return _control(name, action, reason, at, f"is held {state}")


@commands.command
def release(name: Annotated[str, OrStdin], /, *, reason: Reason = "", at: At = None) -> int:
    """Hold a dependency no longer: it goes on as it stood.

    Parameters
    ----------
    name
        As listed; - for those on stdin, one a line.
    """
    return _control(name, "release", reason, at, "is held no longer")


@commands.command
def reset(name: Annotated[str, OrStdin], /, *, reason: Reason = "", at: At = None) -> int:
    """Close it now, hold it no longer, and begin to count anew.

    Parameters
    ----------
    name
        As listed; - for those on stdin, one a line.
    """
    return _control(name, "reset", reason, at, "is closed")


def _control(name: str, action: Action, reason: str, at: At, said: str) -> int:
    return each(
        name,
        at,
        lambda app, one: desk_of(app).breaker_control(one, action, who(), reason),
        said,
    )
