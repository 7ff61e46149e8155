"""`outlive db …`: a store as a thing of its own: brought up to date, verified, copied, carried.

    migrate TARGET           apply what the schema lacks, or `--check` whether it lacks anything
    check [TARGET]           read everything and verify it
    backup TARGET FILE       into one archive, while services run
    restore FILE TARGET      into an empty place
    move FROM TO             between SQLite and PostgreSQL, and back; the old place is frozen

TARGET is an address, or MODULE:APP for the store that a service names. What is carried, in which
order and how it is verified stands in `stores/moving.py`; progress goes to stderr.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Parameter

from outlive.commands.client import DEFAULT
from outlive.commands.exits import DONE, FAILED, MISUSED, STORE, CommandFailed
from outlive.commands.output import Format, document, lines
from outlive.commands.target import service
from outlive.errors import StoreInUse, StoreMoved
from outlive.stores.address import sqlite_path, store_at, without_password
from outlive.stores.contents import SECTIONS, Place
from outlive.stores.moving import Phase, Report, Told, place_at
from outlive.stores.moving import backup as back_up
from outlive.stores.moving import check as look_through
from outlive.stores.moving import give_up as give_move_up
from outlive.stores.moving import move as carry
from outlive.stores.moving import restore as fill

if TYPE_CHECKING:
    from outlive.stores.sql import Migration

T = TypeVar("T")
LINE_ROWS = 100_000
"""Where there is no terminal, one line for so many rows."""

commands = App(name="db", help="Migrate, check, back up, restore and move a store.")

Old = Annotated[str, Parameter(name="FROM")]
New = Annotated[str, Parameter(name="TO")]
GiveUp = Annotated[bool, Parameter(name="--give-up", negative="")]


@commands.command
def migrate(
    target: str | None = None,
    /,
    *,
    check: Annotated[bool, Parameter(negative="")] = False,
    grant: str | None = None,
    output: Format = "text",
) -> int:
    """Bring the schema up to date; safe when two run at once.

    Parameters
    ----------
    target
        An address or MODULE:APP (OUTLIVE_STORE).
    check
        Change nothing; exit 1 when something is pending.
    grant
        A role of PostgreSQL that gets what a service needs, and no more.
    """
    address = address_of(target)
    name = _named(address)
    if grant is not None and not address.startswith("postgres"):
        raise CommandFailed("--grant is for PostgreSQL; a file has no roles", MISUSED)
    wanted = asyncio.run(_pending(address))
    if check:
        _say_migrations(name, wanted, "pending", output)
        return FAILED if wanted else DONE
    done = asyncio.run(_migrate(address, grant))
    _say_migrations(name, done, "applied", output)
    return DONE


@commands.command
def check(target: str | None = None, /, *, output: Format = "text") -> int:
    """Read the whole store and verify it; services may run meanwhile. Exit 1 when it is damaged.

    Parameters
    ----------
    target
        An address or MODULE:APP (OUTLIVE_STORE).
    """
    address = existing(address_of(target))
    report = _at(address, look_through, output)
    _say(report, "checked", output, "no fault was found")
    return FAILED if report.faults else DONE


@commands.command
def backup(target: str, file: Path, /, *, output: Format = "text") -> None:
    """Write the store into one archive; services may run meanwhile.

    Parameters
    ----------
    target
        An address or MODULE:APP.
    file
        The archive; it must not exist.
    """
    address = existing(address_of(target))
    report = _at(address, lambda place, told: back_up(place, file.resolve(), told), output)
    _say(report, f"backed up to {file} ({report.bytes} bytes)", output, "read back and equal")


@commands.command
def restore(file: Path, target: str, /, *, output: Format = "text") -> None:
    """Make an archive the store at an empty place; run it again if it was interrupted.

    Parameters
    ----------
    file
        What `outlive db backup` wrote.
    target
        An address or MODULE:APP; nothing may be there yet.
    """
    address = address_of(target)
    report = _at(address, lambda place, told: fill(file.resolve(), place, told), output)
    _say(report, f"restored from {file}", output, "read back and equal")


@commands.command
def move(old: Old, new: New, /, *, give_up: GiveUp = False, output: Format = "text") -> None:
    """Carry a store to another place and freeze the old one; run it again if it was interrupted.

    Parameters
    ----------
    old
        The address (or MODULE:APP) of the store; no node may serve it.
    new
        The address of the new place; nothing may be there yet.
    give_up
        End a move that did not end: the old place is served again.
    """
    old, new = existing(address_of(old)), address_of(new)
    if without_password(old) == without_password(new):
        raise CommandFailed("FROM and TO are the same place", MISUSED)
    asyncio.run(_demand_unserved(old))

    async def work(source: Place, told: Told) -> Report | None:
        async with place_at(new) as target:
            if give_up:
                await give_move_up(source, target)
                return None
            return await carry(source, target, told)

    report = _at(old, work, output)
    if report is None:
        said = f"{_named(old)} may be served again; {_named(new)} may be emptied"
        if output == "json":
            document({"place": _named(old), "given_up": _named(new)})
        else:
            lines([f"given up: {said}"])
        return
    how = f"moved from {_named(old)}" if report.done else "was moved before; nothing was left to do"
    _say(report, how, output, "read back and equal")


# --- addresses ------------------------------------------------------------------------------------


def address_of(target: str | None) -> str:
    """The address that a person means by `target`. Raises `CommandFailed`."""
    given = target or os.environ.get("OUTLIVE_STORE") or DEFAULT
    if "://" not in given:
        given = service(given).store_address
    if given.startswith("memory:"):
        raise CommandFailed("a store in memory is seen by its own process only", STORE)
    store_at(given)  # says what is wrong with it
    return given


def existing(address: str) -> str:
    """`address`, unless it names a file that does not exist. Raises `CommandFailed`."""
    if address.startswith("sqlite:") and not sqlite_path(address).exists():
        raise CommandFailed(f"there is no store at {sqlite_path(address)}", STORE)
    return address


def _named(address: str) -> str:
    return without_password(address)


# --- the work -------------------------------------------------------------------------------------


async def _pending(address: str) -> list[Migration]:
    async with place_at(address) as place:
        return await place.pending()


async def _migrate(address: str, grant: str | None) -> list[Migration]:
    store: Any = store_at(address)
    await store.open()
    await store.close()
    done: list[Migration] = store.migrated
    if grant is not None:
        async with place_at(address) as place:
            await place.grant(grant)
    return done


async def _demand_unserved(address: str) -> None:
    """Raise `StoreInUse` if a node serves the store; one that is frozen is served by nobody."""
    from outlive.app import Outlive

    app = Outlive(address)
    try:
        await app.open_client()
    except StoreMoved:
        return
    try:
        nodes = await app.nodes()
    finally:
        await app.close()
    if nodes:
        named = ", ".join(f"{node.id} on {node.host} (pid {node.pid})" for node in nodes)
        raise StoreInUse(f"{_named(address)} is served by {named}; it was not moved.")


def _at(address: str, work: Callable[[Place, Told], Awaitable[T]], output: Format) -> T:
    async def asked(told: Told) -> T:
        async with place_at(address) as place:
            return await work(place, told)

    with progress(silent=output == "json") as told:
        return asyncio.run(asked(told))


# --- what is said ---------------------------------------------------------------------------------


def _say_migrations(name: str, which: list[Migration], how: str, output: Format) -> None:
    if output == "json":
        names = [{"number": step.number, "name": step.name} for step in which]
        document({"place": name, how: names})
    elif which:
        lines(f"{how}: {step.number} {step.name}" for step in which)
    else:
        lines([f"nothing to do: {name} is as this release ships it"])


def _say(report: Report, what: str, output: Format, verdict: str) -> None:
    if output == "json":
        document(report)
        return
    lines([f"{report.place}: {what}"])
    lines(
        f"  {section:<7} {report.counts[section]:>10}  sha256 {report.digests[section][:16]}"
        for section in SECTIONS
    )
    if report.left:
        lines([f"  not the store's, and not carried: {', '.join(report.left)}"])
    lines(f"  FAULT  {fault}" for fault in report.faults)
    lines([f"  {len(report.faults)} faults" if report.faults else f"  {verdict}"])


@contextmanager
def progress(*, silent: bool = False) -> Iterator[Told]:
    """What tells how far the work is: bars on a terminal, else lines, on stderr; or nothing."""
    if silent:
        yield lambda phase, section, done, total: None
    elif sys.stderr.isatty():
        with _bars() as told:
            yield told
    else:
        yield _told_in_lines()


@contextmanager
def _bars() -> Iterator[Told]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True)) as drawn:
        tasks: dict[tuple[str, str], Any] = {}

        def told(phase: Phase, section: str, done: int, total: int) -> None:
            if (phase, section) not in tasks:
                tasks[phase, section] = drawn.add_task(f"{phase} {section}", total=total)
            drawn.update(tasks[phase, section], completed=done)

        yield told


def _told_in_lines() -> Told:
    said: dict[tuple[str, str], int] = {}

    def told(phase: Phase, section: str, done: int, total: int) -> None:
        before = said.get((phase, section), 0)
        if done >= total or done // LINE_ROWS > before // LINE_ROWS:
            said[phase, section] = done
            print(f"{phase} {section}: {done} of {total}", file=sys.stderr, flush=True)

    return told
