"""A store opened to look and to ask, by a process that owns nothing and runs nothing.

What is asked (a signal, a cancel) is durable when the command ends and is acted upon by the node
that owns the process. A look never makes a store: one that does not exist is an error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar, cast
from urllib.parse import unquote, urlsplit

from cyclopts import Parameter

from outlive.commands.exits import MISUSED, STORE, CommandFailed
from outlive.commands.target import service
from outlive.stores.address import sqlite_path

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.desk import Desk

T = TypeVar("T")
DEFAULT = "sqlite:///.outlive/store.db"

StoreAddress = Annotated[
    str | None, Parameter(name="--store", help="The store's address (OUTLIVE_STORE).")
]


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where a command looks: in a store, or at a service elsewhere (contexts.py).

    Parameters
    ----------
    store
        The store's address (OUTLIVE_STORE).
    context
        A service elsewhere, by its name in the file of contexts (OUTLIVE_CONTEXT).
    """

    store: str | None = None
    context: str | None = None

    @property
    def chosen(self) -> str | None:
        """The context that is meant; None for a store. Raises `CommandFailed` when both are."""
        if self.store and self.context:
            raise CommandFailed("--store or --context, not both", MISUSED)
        elsewhere = os.environ.get("OUTLIVE_CONTEXT")
        if self.store or self.context or not elsewhere:
            return self.context
        if os.environ.get("OUTLIVE_STORE"):
            raise CommandFailed(
                "OUTLIVE_STORE and OUTLIVE_CONTEXT are both set; say --store or --context", MISUSED
            )
        return elsewhere


At = Where | None


def address_of(given: str | None) -> str:
    """The address of the store that is meant. Raises `CommandFailed` where there is none."""
    address = given or os.environ.get("OUTLIVE_STORE") or DEFAULT
    if address.startswith("memory:"):
        raise CommandFailed("a store in memory is seen by its own process only", STORE)
    if _is_file(address) and not sqlite_path(address).exists():
        place = unquote(urlsplit(address).path)[1:]
        raise CommandFailed(
            f"there is no store at {place}; name one with --store or OUTLIVE_STORE "
            "(a service makes it when it first starts)",
            STORE,
        )
    return address


def ask(
    where: At | str, question: Callable[[Outlive], Awaitable[T]], target: str | None = None
) -> T:
    """Open the store, put the question, close the store; gives the answer. A service elsewhere is
    asked without any store.

    With `target` the question is put to that app, which knows its declarations and may name its
    own store; without it to one that declares nothing.
    """
    at = where if isinstance(where, Where) else Where(where)
    if elsewhere := at.chosen:
        return _ask_elsewhere(elsewhere, question, target)
    from outlive.app import Outlive

    if target is None:
        app = Outlive(address_of(at.store))
    else:
        app = _named(target, at.store)

    async def asked() -> T:
        await app.open_client()
        try:
            return await question(app)
        finally:
            await app.close()

    return asyncio.run(asked())


def _named(target: str, store: str | None) -> Outlive:
    """The app `target`, on the store that was named, if one was; else on its own."""
    if store:
        os.environ["OUTLIVE_STORE"] = address_of(store)
    app = cast("Outlive", service(target))
    own = address_of(app.store_address)
    if store and not _is_same(own, store):
        raise CommandFailed(
            f"{target} names a store of its own, and --store another one; nothing was asked. "
            "Leave one of them out",
            MISUSED,
        )
    return app


def _is_same(one: str, other: str) -> bool:
    files = _is_file(one) and _is_file(other)
    return one == other or (files and sqlite_path(one) == sqlite_path(other))


def _is_file(address: str) -> bool:
    return address.strip().lower().startswith("sqlite:")


def _ask_elsewhere(name: str, question: Callable[[Outlive], Awaitable[T]], target: str | None) -> T:
    from outlive.commands.contexts import context_of
    from outlive.commands.remote import Remote

    if target is not None:
        raise CommandFailed(
            "--app is for a store; the service elsewhere knows what it declares", MISUSED
        )
    app = cast("Outlive", Remote(context_of(name)))

    async def asked() -> T:
        return await question(app)

    return asyncio.run(asked())


def desk_of(app: object) -> Desk:
    """What is asked about the small kinds, of an open store or of a service elsewhere."""
    from outlive.commands.remote import Remote
    from outlive.doors.desk import Desk

    return cast("Desk", app) if isinstance(app, Remote) else Desk(cast("Outlive", app))
