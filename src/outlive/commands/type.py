"""`outlive type list · show TYPE`: which types of process there are, and how theirs stand.

What is under way is counted by type and version, among the newest of each status; what runs a type
is said by the nodes that are alive. A version that is under way and that no node runs stands still.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cyclopts import App

from outlive.commands.client import At
from outlive.commands.exits import NOT_FOUND, CommandFailed
from outlive.commands.listing import Listing, Watch, show
from outlive.commands.options import ListFormat
from outlive.commands.output import time_of

if TYPE_CHECKING:
    from outlive.app import Outlive

commands = App(name="type", help="Look at types of process: what is under way, who runs them.")


@commands.command(name="list")
def list_types(*, at: At = None, output: ListFormat = "table", watch: Watch = False) -> None:
    """List types and versions: what is under way, the oldest, how many nodes run them."""
    show(lambda app: _types(app, None), at, output, watch)


@commands.command(name="show")
def show_type(
    type: str, /, *, at: At = None, output: ListFormat = "table", watch: Watch = False
) -> None:
    """Show one type: a line for each of its versions.

    Parameters
    ----------
    type
        Its name, as in a list of processes.
    """
    show(lambda app: _types(app, type), at, output, watch)


async def _types(app: Outlive, wanted: str | None) -> Listing:
    census = await app.census()
    runs = Counter(name for node in await app.nodes() for name in set(node.runs))
    standing = {f"{one.type} v{one.version}": one for one in census.standing}
    names = sorted({*standing, *runs})
    if wanted is not None:
        names = [name for name in names if name.rpartition(" v")[0] == wanted]
        if not names:
            raise CommandFailed(
                f"no process of a type {wanted!r} is under way, and no node runs it", NOT_FOUND
            )
    rows, things = [], []
    for name in names:
        one = standing.get(name)
        statuses = {} if one is None else dict(sorted(one.statuses.items()))
        said = ", ".join(f"{count} {status}" for status, count in statuses.items())
        oldest = None if one is None else one.oldest
        rows.append((name, str(runs[name]), said or "nothing", time_of(oldest)))
        things.append(
            {
                "type": name.rpartition(" v")[0],
                "version": int(name.rpartition(" v")[2]),
                "nodes": runs[name],
                "under_way": statuses,
                "oldest": time_of(oldest) or None,
            }
        )
    ids = list(dict.fromkeys(name.rpartition(" v")[0] for name in names))
    return Listing(("type", "nodes", "under way", "oldest"), rows, ids, things)
