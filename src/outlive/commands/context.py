"""`outlive context list`: the services elsewhere that `--context` knows. No token is shown."""

from __future__ import annotations

from cyclopts import App

from outlive.commands.contexts import context_of, names
from outlive.commands.exits import CommandFailed
from outlive.commands.listing import Listing, listed
from outlive.commands.options import ListFormat

commands = App(name="context", help="Look at the services that --context knows.")


@commands.command(name="list")
def list_contexts(*, output: ListFormat = "table") -> None:
    """List the contexts of the file, their addresses, and whether they have a token."""
    things = [_thing(name) for name in sorted(names())]
    rows = [(one["name"], one["url"], one["access"]) for one in things]
    listed(
        Listing(("name", "url", "access"), rows, [one["name"] for one in things], things), output
    )


def _thing(name: str) -> dict[str, str]:
    """A context, or what is wrong with it."""
    try:
        one = context_of(name)
    except CommandFailed as error:
        return {"name": name, "url": "", "access": str(error)}
    return {"name": name, "url": one.url, "access": "token" if one.token else "no token"}
