"""`outlive cache list · invalidate`: what the instances share of caches, and making it old.

What is invalidated is loaded again wherever the class of the cache says when: `exact` at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from outlive.commands.client import At, desk_of
from outlive.commands.control import read_json, who
from outlive.commands.exits import MISUSED, CommandFailed
from outlive.commands.listing import Listing, Watch, show
from outlive.commands.many import each
from outlive.commands.options import ListFormat, OrStdin, Reason

if TYPE_CHECKING:
    from outlive.app import Outlive

commands = App(name="cache", help="Look at caches, and make their values old.")


@commands.command(name="list")
def list_caches(*, at: At = None, output: ListFormat = "table", watch: Watch = False) -> None:
    """List the caches of which values or stamps lie in the store."""

    async def question(app: Outlive) -> Listing:
        found = await desk_of(app).cache_lines()
        rows = [(line.name, str(line.values), str(line.stamps)) for line in found]
        return Listing(("name", "values", "stamps"), rows, [line.name for line in found], found)

    show(question, at, output, watch)


@commands.command
def invalidate(
    name: Annotated[str, OrStdin],
    /,
    *,
    tag: str = "",
    key: str = "",
    unseen: Annotated[bool, Parameter(negative="")] = False,
    reason: Reason = "",
    at: At = None,
) -> int:
    """Make values old on every instance: all, those with a tag, or that of one key.

    Parameters
    ----------
    name
        Of the cache; - for those on stdin, one a line.
    tag
        Only values with this tag.
    key
        Only the value for these arguments: a list as JSON, such as '["ada", 7]'.
    unseen
        Also where nothing of the cache lies in the store, because its values lie elsewhere.
    """
    arguments = read_json("key", key) if key else []
    if not isinstance(arguments, list) or not all(type(one) in (str, int) for one in arguments):
        raise CommandFailed("--key is a list of texts and whole numbers as JSON", MISUSED)
    given = tuple(arguments)
    return each(
        name,
        at,
        lambda app, one: desk_of(app).cache_invalidate(one, tag, given, unseen, who(), reason),
        "is invalidated" if not tag and not given else "has that invalidated",
    )
