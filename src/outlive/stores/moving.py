"""Backup, restore, move and check: contents carried from one place to another, and compared.

    backup    place ──one snapshot──> archive ──read back, verified──> its name
    restore   archive ──verified──> empty place ──copied──> inspected, sums equal ──> served
    move      source ──frozen, inspected──> empty place ──copied──> inspected, sums equal ──> served
    check     place ──one snapshot──> inspected

A copy is resumable by nature: rows go in the order of their keys, page by page, each page whole and
durable, so the last key that is there says where to go on. Which copy it was is said by the token
in the halt of the place.

What is new after a restore, because the time between the backup and the loss happened, and is
forgotten:

    incarnation   drawn anew: who holds a token of the lost store is told so
    versions      counted on from `VERSION_LEAP` above the backup's counter: no version that the
                  lost store may have given out after the backup is ever given out again
    epochs        `EPOCH_LEAP` above the backup's; nobody owns a shard: no lease of before is good
    claims        lapse at the `due` they had, on the store's clock, which goes on from the backup's

After a move nothing is forgotten: incarnation and versions stay, epochs go up by one, and nobody
owns a shard.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from outlive import ids
from outlive.errors import (
    ArchiveDamaged,
    BadAddress,
    OutliveError,
    StoreCorrupt,
    StoreIncomplete,
    StoreMoved,
    StoreRefused,
)
from outlive.model import Shard
from outlive.stores.address import sqlite_path
from outlive.stores.archive import ArchiveSource, ArchiveWriter, Header
from outlive.stores.contents import (
    SECTIONS,
    Facts,
    Inspection,
    Kept,
    Place,
    Source,
    Sums,
)

VERSION_LEAP = 1 << 52
"""More versions than a store draws in its life: on PostgreSQL, which draws 65,536 for a commit,
two years of a thousand commits a second. 2,000 restores fit behind one another."""
EPOCH_LEAP = 1 << 32

Phase = Literal["reading", "writing", "copying", "checking", "verifying"]
Told = Callable[[Phase, str, int, int], None]
"""Called as work goes on: the phase, the section, rows done of it, rows there are."""


class Report(Struct, frozen=True):
    """What was carried or looked at."""

    place: str
    counts: dict[str, int]
    digests: dict[str, str]
    faults: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """Tables beside the store's own, which are not carried."""
    bytes: int = 0
    """Of the archive."""
    done: bool = True
    """False when there was nothing left to do."""


@asynccontextmanager
async def place_at(address: str) -> AsyncIterator[Place]:
    """The place that `address` names, for as long as the block lasts. Raises `BadAddress`."""
    scheme = address.partition(":")[0]
    if scheme == "sqlite":
        from outlive.stores.sqlite_contents import SQLitePlace

        place: Place = SQLitePlace(sqlite_path(address))
    elif scheme in ("postgresql", "postgres"):
        from outlive.stores.address import store_at

        store_at(address)  # says what is wrong with the address, or that the driver is missing
        from outlive.stores.postgres_contents import PostgresPlace

        place = PostgresPlace(address)
    elif scheme == "memory":
        raise BadAddress("A store in memory is seen by its own process only.")
    else:
        raise BadAddress(f"{scheme!r} is no kind of store.")
    try:
        yield place
    finally:
        await place.close()


# --- check and backup -----------------------------------------------------------------------------


async def check(place: Place, told: Told) -> Report:
    """Read the whole store and verify all that can be verified; blocks no writer.

    Raises `StoreRefused` or `StoreUnavailable` when it cannot be read at all.
    """
    await _demand_whole(place)
    source = await place.source()
    try:
        sums, faults = await _inspect(source, told, "checking")
        return Report(place.address, sums.counts, sums.digests, tuple(faults), source.facts.left)
    finally:
        await source.close()


async def backup(place: Place, file: Path, told: Told) -> Report:
    """Write what `place` holds now to the archive `file`, which must not exist.

    Services may run meanwhile. When it returns the file is whole, durable and was read back; when
    it raises or dies there is none of that name. Raises `StoreCorrupt` when the store is damaged.
    """
    await _demand_whole(place)
    source = await place.source()
    try:
        facts = source.facts
        writer = ArchiveWriter(file, Header(ids.token(130), facts.clock, facts))
        try:
            inspection = Inspection(facts)
            for section in SECTIONS:
                done = 0
                async for rows in source.pages(section):
                    inspection.take(section, rows)
                    writer.add(section, rows)
                    done += len(rows)
                    told("writing", section, done, facts.counts[section])
            sums = inspection.end()
            _demand_sound(place.address, inspection.found, "No backup was made of it.")
            written = ArchiveSource(writer.end(sums))
            try:
                await _verify_archive(written, told)
            finally:
                await written.close()
            size = writer.publish()
        finally:
            writer.abandon()
        return Report(place.address, sums.counts, sums.digests, left=facts.left, bytes=size)
    finally:
        await source.close()


async def _demand_whole(place: Place) -> None:
    """Raise `StoreIncomplete` if the store in `place` is one that is still being written."""
    halt = await place.halt()
    if halt is not None and halt.reason in ("filling", "filled"):
        raise StoreIncomplete(f"The store in {place.address} is being filled from {halt.other}.")


async def _inspect(source: Kept, told: Told, phase: Phase) -> tuple[Sums, list[str]]:
    """Everything that is wrong with the contents of a database, and their sums."""
    inspection = Inspection(source.facts)
    faults: list[str] = []
    try:
        sums = await _read(source, inspection, told, phase)
    except StoreCorrupt as error:  # a page that cannot be read: say what else is wrong
        faults.append(error.detail)
        sums = inspection.end()
    faults += inspection.found
    async for fault in source.faults():
        faults.append(fault)
    return sums, faults


async def _read(source: Source, inspection: Inspection, told: Told, phase: Phase) -> Sums:
    for section in SECTIONS:
        done = 0
        async for rows in source.pages(section):
            inspection.take(section, rows)
            done += len(rows)
            told(phase, section, done, source.facts.counts.get(section, 0))
    return inspection.end()


async def _verify_archive(source: ArchiveSource, told: Told) -> Sums:
    """Read an archive to its end. Raises `ArchiveDamaged` unless all of it is as it was written."""
    inspection = Inspection(source.facts)
    try:
        sums = await _read(source, inspection, told, "reading")
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ArchiveDamaged(f"{source.path} is damaged: a row is malformed.") from error
    said = source.end()
    if inspection.found:
        raise ArchiveDamaged(f"{source.path} is damaged: {inspection.found[0]}.")
    if said != sums:
        raise ArchiveDamaged(f"{source.path} is damaged: its rows are not those it counted.")
    return sums


def _demand_sound(name: str, faults: list[str], consequence: str) -> None:
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise StoreCorrupt(f"The store in {name} is damaged: {faults[0]}{more}. {consequence}")


# --- restore and move -----------------------------------------------------------------------------


async def restore(file: Path, place: Place, told: Told) -> Report:
    """Make the archive `file` the store in `place`, which must be empty.

    Nothing is written before the whole archive was verified; the store may be opened only after
    all of it was written, read back and found equal. Killed in between, the same call goes on.
    Raises `ArchiveDamaged`, `StoreNotEmpty`, `StoreRefused`.
    """
    first = ArchiveSource(file)
    try:
        sums = await _verify_archive(first, told)
    finally:
        await first.close()
    header = first.header
    halt = await place.halt()
    if halt is None or halt.reason != "filled" or halt.token != header.id:
        await place.prepare(header.facts, f"the archive {file.name}", header.id)
        again = ArchiveSource(file)
        try:
            await _copy(again, place, told)
        finally:
            await again.close()
        await place.conclude(_after_restore(header.facts))
    await _demand_equal(place, sums, told)
    await place.release()
    return Report(place.address, sums.counts, sums.digests)


def _after_restore(facts: Facts) -> Facts:
    version = facts.version + VERSION_LEAP
    if version >= 1 << 62:
        raise StoreRefused("The store was restored from restored stores too often: no versions.")
    shards = tuple(Shard(row.id, "", row.epoch + EPOCH_LEAP, row.head) for row in facts.shards)
    return msgspec.structs.replace(
        facts, incarnation=ids.token(130), version=version, shards=shards
    )


async def move(source: Place, target: Place, told: Told) -> Report:
    """Carry the store in `source` to `target`, which must be empty; `source` is frozen for good.

    Whoever calls has made sure that no node serves the source. Killed at any moment, the same call
    goes on; at no moment can both be served. Raises `StoreMoved` when the source is on its way
    elsewhere, `StoreNotEmpty`, `StoreCorrupt`, `StoreRefused`.
    """
    await _demand_whole(source)
    halt = await source.halt()
    if halt is not None and halt.other != target.address:
        raise StoreMoved(f"The store in {source.address} went to {halt.other}; nothing was done.")
    token = ids.token(130) if halt is None else halt.token
    there = await target.halt()
    if halt is not None and halt.reason == "moved" and there is None:
        sums = await _sums(target, told)
        return Report(target.address, sums.counts, sums.digests, done=False)
    if halt is None:
        await source.freeze("moving", target.address, token)
    try:
        report = await _carry(source, target, token, told)
    except OutliveError:
        if halt is None:
            begun = await target.halt()
            if begun is None or begun.token != token or begun.reason == "moving":
                await source.thaw(token)  # refused before anything was begun
        raise
    await source.freeze("moved", target.address, token)
    await target.release()
    return report


async def _carry(source: Place, target: Place, token: str, told: Told) -> Report:
    contents = await source.source()
    try:
        sums, faults = await _inspect(contents, told, "checking")
        _demand_sound(source.address, faults, "It was not moved.")
        facts = contents.facts
        there = await target.halt()
        if there is None or there.reason != "filled" or there.token != token:
            await target.prepare(facts, source.address, token)
            await _copy(contents, target, told)
            shards = tuple(Shard(row.id, "", row.epoch + 1, row.head) for row in facts.shards)
            await target.conclude(msgspec.structs.replace(facts, shards=shards))
        await _demand_equal(target, sums, told)
        return Report(target.address, sums.counts, sums.digests, left=facts.left)
    finally:
        await contents.close()


async def give_up(source: Place, target: Place) -> None:
    """End a move that did not end: the source takes writes again, the target stays halted.

    Raises `StoreMoved` once the source was moved whole, `StoreRefused` when no move is under way.
    """
    halt = await source.halt()
    if halt is None or halt.reason in ("filling", "filled"):
        raise StoreRefused(f"No move of the store in {source.address} is under way.")
    if halt.reason == "moved" or halt.other != target.address:
        raise StoreMoved(f"The store in {source.address} was moved to {halt.other}.")
    await source.thaw(halt.token)


async def _copy(source: Source, target: Place, told: Told) -> None:
    """Add to the target what it does not have yet."""
    for section in SECTIONS:
        reached = await target.reached(section)
        done, all_rows = 0, source.facts.counts.get(section, 0)
        async for rows in source.pages(section, reached):
            await target.write(section, rows)
            done += len(rows)
            told("copying", section, done, all_rows)
        if done < all_rows:  # the rest was there from an earlier run
            told("copying", section, all_rows, all_rows)


async def _sums(place: Place, told: Told) -> Sums:
    contents = await place.source()
    try:
        return await _read(contents, Inspection(contents.facts), told, "verifying")
    finally:
        await contents.close()


async def _demand_equal(place: Place, wanted: Sums, told: Told) -> None:
    """Read the target whole. Raises `StoreCorrupt` unless it is sound and equal to the source."""
    contents = await place.source()
    try:
        sums, faults = await _inspect(contents, told, "verifying")
    finally:
        await contents.close()
    consequence = "It stays halted; empty it and begin again."
    _demand_sound(place.address, faults, consequence)
    if sums != wanted:
        differ = [
            section
            for section in SECTIONS
            if (sums.counts[section], sums.digests[section])
            != (wanted.counts[section], wanted.digests[section])
        ]
        raise StoreCorrupt(
            f"What was written to {place.address} is not what was read ({', '.join(differ)} "
            f"differ). {consequence}"
        )
