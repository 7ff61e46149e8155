"""The contents of a PostgreSQL store, read in one snapshot and written anew.

Reading is one REPEATABLE READ transaction: services go on writing, and nobody waits; but it pins
dead rows for as long as it lasts, so claims get slower during the backup of a busy store.

Writing goes page by page, each page one transaction, its rows by COPY. The store is halted
meanwhile, so nobody else opens it. Needs the role that owns the schema, and a session of its own:
a pooler in transaction mode must not stand between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import asyncpg
import msgspec

from outlive.errors import SchemaBehind, StoreCorrupt, StoreNotEmpty, StoreRefused
from outlive.model import Shard
from outlive.stores import sql
from outlive.stores.address import postgres_place, store_at, without_password
from outlive.stores.contents import (
    PAGE_BYTES,
    PAGE_ROWS,
    SECTIONS,
    Facts,
    Key,
    Row,
    Section,
)
from outlive.stores.halt import Halt, Reason, demand_filling, demand_mine, halt_of
from outlive.stores.migrate import pending
from outlive.stores.postgres_blobs import BLOB_BYTES_MAX
from outlive.stores.postgres_links import CONNECT_SECONDS, CUT, Connection, mapped, statements

ANSWER_SECONDS = 3600.0
"""How long one statement may take: counting and checking read whole tables."""
VERSIONS_IN_BLOCK = 65_536

_decode_marks = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode
_TABLES: dict[Section, tuple[str, str]] = {
    "holds": ("hold", "shard epoch owner head time previous"),
    "events": ("event", "shard seq stream n kind time data chain"),
    "cells": ("cell", "space key version due marks value"),
    "blobs": ("blob", "name time data"),
}


class PostgresPlace:
    """The schema that `address` names, which may hold a store; served or not."""

    def __init__(self, address: str) -> None:
        self.address = without_password(address)
        self._address = address
        self._dsn, self.schema = postgres_place(address)
        self.sql = statements(self.schema)
        self._token = ""
        self._link: Connection | None = None
        self._sources: list[PostgresSource] = []

    async def connect(self) -> Connection:
        """A new session; the caller closes it."""
        with foreign():
            link = await asyncpg.connect(
                self._dsn,
                timeout=CONNECT_SECONDS,
                command_timeout=ANSWER_SECONDS,
            )
            await link.execute("SET idle_in_transaction_session_timeout = 0")
            await link.execute("SET statement_timeout = 0")
        return link

    async def link(self) -> Connection:
        """The session that this place writes by."""
        if self._link is None:
            self._link = await self.connect()
        return self._link

    # --- reading ----------------------------------------------------------------------------------

    async def pending(self) -> list[sql.Migration]:
        """The migrations the store lacks: all of them where there is no store yet."""
        link = await self.link()
        shipped = sql.migrations("postgres")
        with foreign():
            if not await link.fetchval(self.sql["migrations_exist"], self.schema):
                return shipped
            applied = await link.fetch(self.sql["migrations"])
        return pending(shipped, [tuple(row) for row in applied])

    async def source(self) -> PostgresSource:
        """Its contents as they are now. Raises `StoreRefused` and `StoreUnavailable`."""
        lacking = await self.pending()
        if len(lacking) == len(sql.migrations("postgres")):
            raise StoreRefused(f"There is no store in {self.address}.")
        if lacking:
            names = ", ".join(f"{step.number} ({step.name})" for step in lacking)
            raise SchemaBehind(f"The store in {self.address} lacks the migrations {names}.")
        source = PostgresSource(self, await self.connect())
        self._sources.append(source)
        with foreign():
            await source.begin()
        return source

    async def halt(self) -> Halt | None:
        """Why its store is not served; None also where there is none."""
        if await self.pending():
            return None
        link = await self.link()
        with foreign():
            return halt_of(await link.fetchrow(self.sql["halt_read"]))

    async def freeze(self, reason: Reason, other: str, token: str) -> None:
        """Take no more writes from anybody; waits for the transactions under way."""
        link = await self.link()
        with foreign():
            async with link.transaction():
                await link.execute(self.sql["freeze"])  # waits for another move's
                row = await link.fetchrow(self.sql["halt_read"])
                demand_mine(self.address, row, reason, token)
                await self._say(link, "halt_write", reason, other, token)

    async def thaw(self, token: str) -> None:
        """Take writes again."""
        link = await self.link()
        with foreign():
            async with link.transaction():
                await link.execute(self.sql["thaw"])
                row = await link.fetchrow(self.sql["halt_read"])
                demand_mine(self.address, row, "moving", token)
                await link.execute(self.sql["halt_end"])

    async def _say(
        self, link: Connection, how: str, reason: Reason, other: str, token: str
    ) -> None:
        now = await link.fetchval(self.sql["clock"], 0, None)
        await link.execute(self.sql[how], reason, other, token, now)

    async def _demand_filling(self, link: Connection) -> None:
        row = await link.fetchrow(self.sql["halt_hold"])
        demand_filling(self.address, row, self._token)

    # --- writing ----------------------------------------------------------------------------------

    async def prepare(self, facts: Facts, other: str, token: str) -> None:
        """See `Place.prepare`."""
        self._token = token
        if facts.blob_bytes > BLOB_BYTES_MAX:
            raise StoreRefused(
                f"There is a blob of {facts.blob_bytes} bytes; PostgreSQL keeps at most "
                f"{BLOB_BYTES_MAX}. Nothing was written."
            )
        halt = await self.halt()
        if halt is not None and halt.reason in ("filling", "filled"):
            if halt.token != token:
                raise StoreNotEmpty(f"{self.address} is already being filled from {halt.other}.")
            return
        if halt is not None and halt.token == token:
            raise StoreNotEmpty(f"{self.address} is the store that is to be moved.")
        if halt is not None:
            raise StoreNotEmpty(f"The store in {self.address} was moved to {halt.other}.")
        made = store_at(self._address)
        made.shards = len(facts.shards)
        await made.open()
        await made.close()
        link = await self.link()
        with foreign():
            found = await link.fetchrow(self.sql["facts"])
            if any(found[section] for section in SECTIONS):
                raise StoreNotEmpty(f"The store in {self.address} has been used.")
            async with link.transaction():
                await self._say(link, "halt_begin", "filling", other, token)
                await self._demand_filling(link)
                await link.execute(self.sql["shards_drop"])
                await link.execute(self.sql["shards_count"], len(facts.shards))
                await link.execute(self.sql["shards_make"], len(facts.shards))

    async def reached(self, section: Section) -> Key | None:
        """The last key of `section` that is there."""
        link = await self.link()
        with foreign():
            row = await link.fetchrow(self.sql[f"last_{section[:-1]}"])
        return None if row is None or row[0] is None else tuple(row)

    async def write(self, section: Section, rows: Sequence[Row]) -> None:
        """See `Place.write`. Raises `StoreRefused` for a text that PostgreSQL cannot keep."""
        link = await self.link()
        table, columns = _TABLES[section]
        given = [tuple(row) for row in rows]
        for row in given:
            texts = [value for value in row if isinstance(value, str)]
            if section == "cells":
                texts += [text for mark in _decode_marks(row[4]) for text in mark]
            if any("\0" in text for text in texts):
                raise StoreRefused(
                    f"PostgreSQL keeps no text with a NUL character, and {table} "
                    f"{row[0]!r}/{row[1]!r} has one. What was written so far stays halted."
                )
        with foreign():
            async with link.transaction():
                await self._demand_filling(link)
                await link.copy_records_to_table(
                    table, schema_name=self.schema, columns=columns.split(), records=given
                )
                if section == "cells":
                    marks = {
                        (*mark, row[0], row[1]) for row in given for mark in _decode_marks(row[4])
                    }
                    await link.copy_records_to_table(
                        "mark",
                        schema_name=self.schema,
                        columns=["name", "value", "space", "key"],
                        records=sorted(marks),
                    )

    async def conclude(self, facts: Facts) -> None:
        """See `Place.conclude`."""
        link = await self.link()
        with foreign():
            async with link.transaction():
                await self._demand_filling(link)
                await link.executemany(
                    self.sql["fill_shard"], [(row.id, row.epoch, row.head) for row in facts.shards]
                )
                await link.execute(self.sql["fill_store"], facts.incarnation, facts.clock)
                block = -(-(facts.version + 1) // VERSIONS_IN_BLOCK)
                await link.execute(self.sql["fill_versions"], self.schema, block)
                await link.execute(self.sql["halt_filled"])
        for name in ("cell", "event", "mark"):  # or the first queries would read whole tables
            with foreign():
                await link.execute(self.sql[f"analyze_{name}"])

    async def release(self) -> None:
        """May be served from now on."""
        link = await self.link()
        with foreign():
            await link.execute(self.sql["halt_release"])

    async def grant(self, role: str) -> None:
        """Give `role` what a service needs on the schema, and no more. Raises `StoreRefused`."""
        link = await self.link()
        with foreign():
            async with link.transaction():
                for (statement,) in await link.fetch(self.sql["grants"], self.schema, role):
                    await link.execute(statement)

    async def close(self) -> None:
        """Close whatever is open; what was written stays."""
        for source in self._sources:
            await source.close()
        if self._link is not None:
            link, self._link = self._link, None
            await _end(link)


class PostgresSource:
    """The contents of a store in one snapshot, on the session `link`."""

    def __init__(self, whose: PostgresPlace, link: Connection) -> None:
        self._place = whose
        self._sql = whose.sql
        self._link: Connection | None = link
        self._rows = 0

    async def begin(self) -> None:
        """Take the snapshot."""
        link = self._link
        assert link is not None
        await link.transaction(isolation="repeatable_read", readonly=True).start()
        row = await link.fetchrow(self._sql["facts"])
        if row is None:
            raise StoreCorrupt(f"{self._place.address} has outlive's tables but no store row.")
        clock = (await link.fetchrow(self._sql["store_read"]))["clock"]
        shards = tuple(Shard(*found) for found in await link.fetch(self._sql["shards"]))
        self._rows = row["shards"]
        counts: dict[str, int] = {section: row[section] for section in SECTIONS}
        self.facts = Facts(
            row["incarnation"], row["version"], clock, shards, counts, row["largest"]
        )

    async def pages(self, section: Section, after: Key | None = None) -> AsyncIterator[list[Row]]:
        """See `Source.pages`."""
        link = self._link
        assert link is not None
        first: dict[Section, Key] = {
            "holds": (-1, -1), "events": (-1, -1), "cells": ("", ""), "blobs": ("",)
        }  # fmt: skip
        key = after or first[section]
        limits: Key = {"holds": (PAGE_ROWS,), "blobs": ()}.get(section, (PAGE_ROWS, PAGE_BYTES))
        while True:
            with foreign():
                rows = await link.fetch(self._sql[f"copy_{section}"], *key, *limits)
            if not rows:
                return
            yield [tuple(row) for row in rows]
            key = tuple(rows[-1])[: len(key)]

    async def faults(self) -> AsyncIterator[str]:
        """See `Kept.faults`."""
        link = self._link
        assert link is not None
        for name, what in (
            ("check_streams", "stream {0}: {1} events, numbered {2} to {3}"),
            ("check_marks_missing", "cell {0}/{1}: its mark {2}={3} is missing"),
            ("check_marks_stray", "mark {2}={3} of cell {0}/{1}: the cell does not have it"),
        ):
            try:
                async with link.transaction():
                    rows = await link.fetch(self._sql[name])
            except asyncpg.PostgresError as error:
                kind = what.split()[0]
                yield f"{kind}: {name.replace('_', ' ')} could not be done ({error})"
                continue
            for row in rows:
                yield what.format(*row)
        if self._rows != len(self.facts.shards):
            yield f"shards: {len(self.facts.shards)} rows, and the store counts {self._rows}"

    async def close(self) -> None:
        """Let go of the snapshot."""
        if self._link is not None:
            link, self._link = self._link, None
            await _end(link)


async def _end(link: Connection) -> None:
    try:
        await link.close(timeout=CONNECT_SECONDS)
    except (*CUT, asyncpg.PostgresError):
        link.terminate()


@contextmanager
def foreign() -> Iterator[None]:
    """Errors of the driver as ours."""
    try:
        yield
    except (*CUT, asyncpg.PostgresError) as error:
        raise mapped(error) from error
