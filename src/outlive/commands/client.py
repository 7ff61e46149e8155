"""A store opened to look and to ask, by a process that owns nothing and runs nothing.

What is asked (a signal, a cancel) is durable when the command ends and is acted upon by the node
that owns the process. A look never makes a store: one that does not exist is an error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

from cyclopts import Parameter

from outlive.commands.exits import STORE, CommandFailed
from outlive.commands.target import service

if TYPE_CHECKING:
    from outlive.app import Outlive

T = TypeVar("T")
DEFAULT = "sqlite:///.outlive/store.db"
FILE = "sqlite:///"

StoreAddress = Annotated[
    str | None, Parameter(name="--store", help="The store's address (OUTLIVE_STORE).")
]


def address_of(given: str | None) -> str:
    """The address of the store that is meant. Raises `CommandFailed` where there is none."""
    address = given or os.environ.get("OUTLIVE_STORE") or DEFAULT
    if address.startswith("memory:"):
        raise CommandFailed("a store in memory is seen by its own process only", STORE)
    if address.startswith(FILE) and not Path(address.removeprefix(FILE)).exists():
        place = address.removeprefix(FILE)
        raise CommandFailed(
            f"there is no store at {place}; name one with --store or OUTLIVE_STORE "
            "(a service makes it when it first starts)",
            STORE,
        )
    return address


def ask(
    store: str | None, question: Callable[[Outlive], Awaitable[T]], target: str | None = None
) -> T:
    """Open the store, put the question, close the store; gives the answer.

    With `target` the question is put to that app, which knows its declarations and may name its
    own store; without it to one that declares nothing.
    """
    from outlive.app import Outlive

    address = address_of(store)
    if target is None:
        app = Outlive(address)
    else:
        os.environ["OUTLIVE_STORE"] = address
        app = cast("Outlive", service(target))
        address_of(app.store_address)

    async def asked() -> T:
        await app.open_client()
        try:
            return await question(app)
        finally:
            await app.close()

    return asyncio.run(asked())
