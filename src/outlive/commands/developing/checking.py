"""The code looked at before it serves, by a program of its own: a mistake in it harms nobody.

    python -m outlive.commands.developing.checking ORDER

It loads MODULE:APP, says what is declared and what the store promises, and replays every process
that is under way on this code, performing nothing (`outlive process diff` does the same). What it
finds goes as one document of JSON through a pipe, because the code may print what it likes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from outlive.commands.exits import CommandFailed, exit_code
from outlive.commands.journals import chosen, compared
from outlive.commands.target import Service, behind, load
from outlive.doors.declared import Declared, declared_by
from outlive.errors import OutliveError
from outlive.kinds.processes import FINAL, STATUSES
from outlive.kinds.processes.difference import Difference
from outlive.stores.address import sqlite_path, without_password

if TYPE_CHECKING:
    from outlive.app import Outlive

COMPARED_MAX = 500
"""Processes under way that are replayed at one look, the newest of each status."""
EXAMINED_BYTES_MAX = 256 * 1024 * 1024
"""A larger file is not examined while somebody waits for the service."""
MEMORY = "memory:"


class Order(msgspec.Struct, frozen=True):
    """What is to be looked at; `report` is the descriptor that the findings go to."""

    target: str
    report: int
    fully: bool
    """Whether the store is asked what it promises; not needed at each change of a file."""


class Looked(msgspec.Struct, frozen=True):
    """What a look has found. `failure`: why this code cannot be served, with the exit code."""

    failure: str = ""
    code: int = 0
    declared: Declared | None = None
    """None: it is an ASGI application without an `Outlive` in it."""
    store: str = ""
    """The store's address without its password."""
    promise: str = ""
    """What durable means there."""
    compared: int = 0
    differences: tuple[Difference, ...] = ()
    """Processes under way that would not go on with this code."""
    unread: str = ""
    """Why nothing was compared."""


async def look(target: str, *, fully: bool) -> Looked:
    """Load `target` and say what is to be said about it; see the top of this module."""
    try:
        found = load(target)
    except CommandFailed as error:
        return Looked(str(error), error.code)
    except OutliveError as error:
        return Looked(str(error), exit_code(error))
    inside = found if isinstance(found, Service) else behind(found)
    if inside is None:
        return Looked()
    app = cast("Outlive", inside)
    shown = app.store_address
    if shown.startswith("postgres"):
        shown = without_password(shown)
    if app.store_address.startswith(MEMORY):
        promise = "nothing: a store in memory is gone with each reload"
        return Looked(declared=declared_by(app), store=shown, promise=promise)
    promise, unread, every = "", "", list[Difference]()
    try:
        await app.open_client()
        try:
            if fully:
                promise = await _promise_of(app)
            every = await _differences(app)
        finally:
            await app.close()
    except OutliveError as error:
        unread = str(error)
    unfit = tuple(one for one in every if not one.fits)
    return Looked(
        declared=declared_by(app), store=shown, promise=promise, compared=len(every),
        differences=unfit, unread=unread,
    )  # fmt: skip


async def _promise_of(app: Outlive) -> str:
    """What the store says about durability, in the doctor's words."""
    address = app.store_address
    if address.startswith("sqlite:"):
        file = sqlite_path(address)
        if file.exists() and file.stat().st_size > EXAMINED_BYTES_MAX:
            return "the file is large: ask `outlive doctor`"
    found = await app.store.doctor()
    return next((item.text for item in found if item.name == "durability"), "")


async def _differences(app: Outlive) -> list[Difference]:
    wanted = [status for status in STATUSES if status not in FINAL]
    return await compared(app, app, await chosen(app, wanted, None, COMPARED_MAX), strict=False)


def main(order: Order) -> None:
    """Look, and report."""
    sys.path.insert(0, str(Path.cwd()))
    found = asyncio.run(look(order.target, fully=order.fully))
    with os.fdopen(order.report, "wb") as report:
        report.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Order))
