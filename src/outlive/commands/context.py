"""`outlive context list`: the services elsewhere that `--context` knows. No token is shown."""

from __future__ import annotations

from cyclopts import App

from outlive.commands.contexts import context_of, names, place
from outlive.commands.listing import Listing, listed
from outlive.commands.options import ListFormat

commands = App(name="context", help="Look at the services that --context knows.")


@commands.command(name="list")
def list_contexts(*, output: ListFormat = "table") -> None:
    """List the contexts of the file, their addresses, and whether they have a token."""
    found = [context_of(name) for name in sorted(names())]
    rows = [(one.name, one.url, "token" if one.token else "no token") for one in found]
    things = [
        {"name": one.name, "url": one.url, "has_token": bool(one.token), "file": str(place())}
        for one in found
    ]
    listed(Listing(("name", "url", "access"), rows, [one.name for one in found], things), output)
