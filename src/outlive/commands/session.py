"""`outlive session list · revoke`: who is signed in, and signing them out.

Of sessions in the application's own store: not of those sealed in cookies, or kept with `cells=`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App

from outlive.commands.client import At, ask, desk_of
from outlive.commands.control import who
from outlive.commands.exits import DONE, MISUSED, CommandFailed
from outlive.commands.listing import Listing, Watch, show
from outlive.commands.many import each
from outlive.commands.options import Limit, ListFormat, OrStdin, Reason
from outlive.commands.output import time_of

if TYPE_CHECKING:
    from outlive.app import Outlive

commands = App(name="session", help="Look at sessions, and sign out.")


@commands.command(name="list")
def list_sessions(
    *,
    subject: str = "",
    limit: Limit = 50,
    at: At = None,
    output: ListFormat = "table",
    watch: Watch = False,
) -> None:
    """List open sessions, the last seen first.

    Parameters
    ----------
    subject
        Only those of who is signed in so.
    limit
        At most this many (1 to 100000).
    """

    async def question(app: Outlive) -> Listing:
        found = await desk_of(app).session_lines(subject, limit)
        rows = [
            (
                line.key,
                line.subject,
                time_of(line.seen),
                time_of(line.due),
                line.place,
                line.agent,
            )
            for line in found
        ]
        heads = ("key", "subject", "seen", "ends", "place", "browser")
        return Listing(heads, rows, [line.key for line in found], found)

    show(question, at, output, watch)


@commands.command
def revoke(
    key: Annotated[str | None, OrStdin] = None,
    /,
    *,
    subject: str = "",
    reason: Reason = "",
    at: At = None,
) -> int:
    """Sign out one session, or a subject everywhere; what is under way with it is refused.

    Parameters
    ----------
    key
        Its key, as listed; - for those on stdin, one a line.
    subject
        Instead of a key: all sessions of who is signed in so.
    """
    if (key is None) == (not subject):
        raise CommandFailed("name a session by its key, or all of a --subject", MISUSED)
    if key is not None:
        return each(
            key,
            at,
            lambda app, one: desk_of(app).session_revoke(one, who(), reason),
            "is signed out",
        )
    count = ask(at, lambda app: desk_of(app).session_revoke_all(subject, who(), reason))
    print(f"{subject} is signed out of {count} sessions")
    return DONE
