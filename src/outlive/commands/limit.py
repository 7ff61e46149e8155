"""`outlive limit list · reset`: what is used of rate limits, who holds slots; forgetting it.

Of limits in the application's own store: not of those kept with `cells=`, or in one process alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App

from outlive.commands.client import At, desk_of
from outlive.commands.control import who
from outlive.commands.listing import Listing, Watch, show
from outlive.commands.many import each
from outlive.commands.options import Limit, ListFormat, OrStdin, Reason
from outlive.commands.output import time_of

if TYPE_CHECKING:
    from outlive.app import Outlive

commands = App(name="limit", help="Look at what is used of rate limits, and reset it.")


@commands.command(name="list")
def list_limits(
    *, limit: Limit = 50, at: At = None, output: ListFormat = "table", watch: Watch = False
) -> None:
    """List what is used of quotas, and who holds slots.

    Parameters
    ----------
    limit
        At most this many (1 to 100000).
    """

    async def question(app: Outlive) -> Listing:
        found = await desk_of(app).limit_lines(limit)
        rows = [
            (
                line.key,
                line.what,
                f"{line.used} of {line.of}" if line.of else f"{line.used}",
                time_of(line.due),
                line.storage,
            )
            for line in found
        ]
        heads = ("key", "what", "used", "all back", "storage")
        return Listing(heads, rows, [line.key for line in found], found)

    show(question, at, output, watch)


@commands.command
def reset(key: Annotated[str, OrStdin], /, *, reason: Reason = "", at: At = None) -> int:
    """Forget what is used under a key; of slots, who holds them.

    Parameters
    ----------
    key
        As listed, such as daily/ada; - for those on stdin, one a line.
    """
    return each(
        key, at, lambda app, one: desk_of(app).limit_reset(one, who(), reason), "is forgotten"
    )
