"""The store in a PostgreSQL database: many nodes, one schema, every commit one function call.

    event loop ──group──> the writing lane ──one call, one transaction──> server
               ──work───> lanes of transact
               ──reads──> reading links

What "acknowledged" means: `durable` batches are committed with the server's `synchronous_commit`,
which must be on (`doctor` says what that is worth: one disk, or a standby too). A group of
`relaxed` batches alone does not wait for the flush: a power loss may take the last 600 ms.
`volatile` is refused.

The clock is the server's (`clock_timestamp()`), with a high-water mark in what is committed: it
never goes back for a process, in a shard, or over a restart. Deadlines are judged by the server.

Needs a role that owns its schema and nothing else, PostgreSQL 14 or newer, and the primary. A
pooler in transaction mode may stand between; it is noticed when the store is opened. What must be
kept in a session (signs of life, hints) then goes to the server at `direct`; without that a dead
node is noticed by its lease and other nodes' work by polling: seconds and 50 ms instead of some
milliseconds.

Not promised: anything on a replica; speed under a `default_transaction_isolation` other than READ
COMMITTED, where claims and takes may be refused as busy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, TypeVar

import asyncpg

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import (
    OutcomeUnknown,
    OutliveError,
    ReadOnlyStore,
    SchemaBehind,
    StoreCorrupt,
    StoreRefused,
    StoreUnavailable,
    StoreWentBack,
)
from outlive.model import Batch, Cell, Committed, Event, Hold, Lease, Ref, Shard, Storage
from outlive.store import CLAIM_CELLS_MAX, GROUP_BATCHES_MAX, MANNERS, Blobs, Finding
from outlive.stores import sql
from outlive.stores.halt import demand_service
from outlive.stores.migrate import pending
from outlive.stores.postgres_beliefs import Beliefs
from outlive.stores.postgres_blobs import PostgresBlobs
from outlive.stores.postgres_doctor import examine
from outlive.stores.postgres_group import Group
from outlive.stores.postgres_guests import Theirs, demand_manner, opened, transaction_on
from outlive.stores.postgres_hints import Hints, hands_over
from outlive.stores.postgres_lane import SUPERSEDED, Lane, ServerClock
from outlive.stores.postgres_links import (
    CUT,
    FROZEN_MILLISECONDS,
    LOCK_LIMIT_SECONDS,
    STATEMENT_LIMIT_SECONDS,
    Connection,
    Link,
    Links,
    Way,
    is_cut,
    mapped,
    placed,
    schema_checked,
    statements,
    straight,
    way_to,
)
from outlive.stores.postgres_presence import PostgresPresence
from outlive.stores.postgres_recall import Recall
from outlive.stores.postgres_session import Session
from outlive.stores.postgres_tables import Work, run_work
from outlive.stores.postgres_takeover import Takes
from outlive.stores.refusals import demand_erasable

log = logging.getLogger("outlive")
T = TypeVar("T")
SHARDS_MAX = 1024
SERVER_MIN = 140_000
"""`server_version_num` of the oldest server this is tested for."""
READING_LINKS = 4
TRANSACT_LANES = 4
"""Functions of `transact` at a time; the others wait."""
READ_TRIES = 2
ERASE_SECONDS = 30.0
"""How long emptying streams may take."""
WRITER_FORGET_MICROS = 7 * 86_400 * MICROS


class PostgresStore:
    """A store in `schema` of the database at `dsn` (`postgresql://user:pass@host/db`).

    `shards` (1 to `SHARDS_MAX`) counts when the store is made; an existing one keeps its own.
    `clock` is a test's: the host's own is never asked, the server's is. `direct` is `host:port` of
    the server itself, where `dsn` leads to a pooler (`host:port/database` if it has another name
    there). `statement_cache_size` is found out; give a number for a pooler that knows prepared
    statements (PgBouncer 1.21 and later), 0 for one that is not noticed. Nothing is opened before
    `open()`. After a fork the child's copy is closed: it opens a store of its own.
    """

    def __init__(
        self,
        dsn: str,
        shards: int = 64,
        clock: Clock | None = None,
        *,
        schema: str = "outlive",
        statement_cache_size: int | None = None,
        direct: str = "",
    ) -> None:
        if not 1 <= shards <= SHARDS_MAX:
            raise ValueError(f"shards must be 1 to {SHARDS_MAX}, not {shards}")
        self.keeps: tuple[Storage, ...] = ("relaxed", "durable")
        self.lacks: Mapping[str, str] = {}
        self.shards = shards
        self.schema = schema_checked(schema)
        self.incarnation = ""
        self.sql = statements(schema)
        self._dsn = dsn
        self._direct = straight(dsn, direct) if direct else ""
        self._cache_size = statement_cache_size
        self.clock = ServerClock(clock)
        self.blobs: Blobs = PostgresBlobs(self)
        self.migrated: list[sql.Migration] = []
        """What opening applied to the schema."""
        self._beliefs = Beliefs()
        self._recall = Recall(f"schema {schema}", Clock())
        self._is_open = False
        self._tasks: set[asyncio.Task[Any]] = set()
        _stores.add(self)

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> None:
        machine, writer = Clock(), ids.node_id()
        try:
            way = await way_to(self._dsn, f"outlive {writer}", self._cache_size)
        except _FOREIGN as error:
            raise mapped(error) from error
        self._writing = Links(way, 1, machine)
        self._working = Links(way, TRANSACT_LANES, machine)
        self._reading = Links(way, READING_LINKS, machine)
        straight_way = Way(self._direct, name=way.name) if self._direct else way
        self._straight = Links(straight_way, 1, machine)
        self.session = Session(self._straight, self.sql["backend"])
        self.session.is_possible = bool(self._direct) or not way.is_pooled
        self._presence = PostgresPresence(self.session, self.sql, self.schema, self.clock)
        self._hints = Hints(self._reading, self.session, self.sql, self.schema, machine)
        shared = (self.sql, self.clock, self._beliefs, self._recall)
        self._lane = Lane(writer, self._writing, *shared)
        self._takes = Takes(
            self._working, self._reading, self.sql, self.clock, self._beliefs.chains
        )
        self._free: asyncio.LifoQueue[Lane] = asyncio.LifoQueue()
        lanes = [self._lane]
        for number in range(TRANSACT_LANES):
            name = f"{writer}/{number}"
            lanes.append(Lane(name, self._working, *shared))
            self._free.put_nowait(lanes[-1])
        try:
            async with self._writing.borrow() as link:
                await self._demand_server(link)
                await self._writing.begin(link, lock_seconds=STATEMENT_LIMIT_SECONDS)
                await self._migrate(link)
                await self._start(link, [lane.name for lane in lanes])
                await link.execute("COMMIT")
        except BaseException as error:
            await self._close_links()
            if isinstance(error, _FOREIGN):
                raise mapped(error) from error
            raise
        for links in (self._writing, self._working, self._reading, self._straight):
            links.check = self._demand_same
        self._is_open, self.refresh = True, self._reading.refresh
        async with self._reading.borrow():
            pass  # the first link of its own was checked: the timeline is known

    async def _demand_same(self, link: Connection) -> None:
        """A new connection must lead to the store that was opened, and to all that was told."""
        fetch = self._reading.fetch
        ((timeline,),) = await fetch(link, self.sql["timeline"])
        if self._recall.rose(timeline):
            log.warning("another server leads now (timeline %d)", timeline)
            for links in (self._writing, self._working, self._reading, self._straight):
                links.abandon()
            self.session.drop()
        rows = await fetch(link, self.sql["incarnation"])
        if not rows or rows[0][0] != self.incarnation:
            raise StoreCorrupt(
                f"Schema {self.schema} holds another store than the one that was opened: the "
                "database was replaced. Nothing was written."
            )
        if isinstance(link, Link):  # a guest's connection is never the first to a new server
            ((shards, lanes),) = await fetch(link, self.sql["recall"], *self._recall.question())
            try:
                self._recall.demand(shards, lanes)
            except StoreWentBack as error:
                note = self._lane.name, error.detail.encode()
                with suppress(asyncpg.PostgresError):  # it stands in the log in any case
                    await fetch(link, self.sql["loss_note"], *note)
                raise

    @property
    def lost(self) -> StoreWentBack | None:
        """Why nothing more is done on this store, if acknowledged commits are missing in it."""
        return self._recall.lost

    async def _demand_server(self, link: Connection) -> None:
        version, number, in_recovery = await link.fetchrow(self.sql["doctor_server"])
        if number < SERVER_MIN:
            raise StoreRefused(
                f"PostgreSQL {version} is too old; {SERVER_MIN // 10_000} or newer is needed."
            )
        if in_recovery:
            raise ReadOnlyStore("The server is a standby; the address must lead to the primary.")

    async def _migrate(self, link: Connection) -> None:
        """Bring the schema up to date, if this role may; raises `SchemaBehind` if it may not."""
        shipped = sql.migrations("postgres")
        await link.execute(self.sql["migration_lock"], _lock_of(self.schema))
        there = await link.fetchval(self.sql["schema_exists"], self.schema)
        exists = await link.fetchval(self.sql["migrations_exist"], self.schema)
        applied = await link.fetch(self.sql["migrations"]) if exists else []
        wanted = pending(shipped, [tuple(row) for row in applied])
        try:
            if not there:
                await link.execute(self.sql["schema_make"])
            if not exists:
                await link.execute(self.sql["migrations_table"])
            for migration in wanted:
                await link.execute(placed(migration.text, self.schema))
                await link.execute(
                    self.sql["migration_done"],
                    migration.number,
                    migration.name,
                    migration.checksum,
                    self.clock.wall,
                )
        except asyncpg.InsufficientPrivilegeError as error:
            names = ", ".join(f"{step.number} ({step.name})" for step in wanted)
            raise SchemaBehind(
                f"Schema {self.schema} lacks the migrations {names}, and this role may not apply "
                f"them ({error}). It was not touched."
            ) from error
        demand_service(f"schema {self.schema}", await link.fetchrow(self.sql["halt_read"]))
        self.migrated = wanted

    async def _start(self, link: Connection, writers: Sequence[str]) -> None:
        """Read what the store is, and make the marks of this process's lanes."""
        await link.execute(self.sql["store_make"], ids.token(130), self.shards)
        row = await link.fetchrow(self.sql["store_read"])
        if row is None:
            raise StoreCorrupt(f"Schema {self.schema} has outlive's tables but no store row.")
        self.incarnation, self.shards = row["incarnation"], row["shards"]
        await link.execute(self.sql["shards_make"], self.shards)
        self.clock.raised(row["clock"])
        self.clock.heard(await link.fetchval(self.sql["clock"], self.clock.high, self.clock.wall))
        now = self.clock.now()
        await link.execute(self.sql["clock_keep"], row["clock"])
        await link.execute(self.sql["writer_forget"], now - WRITER_FORGET_MICROS)
        await link.execute(self.sql["writer_make"], list(writers), now)

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await self._hints.close()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.session.close(self._presence.farewell)
        await self._close_links()

    def sever(self) -> None:
        """Cut every connection at once, as the end of the process does: for those who end it."""
        self._is_open = False
        self._hints.forget()
        self.session.sever()
        for links in (self._writing, self._working, self._reading, self._straight):
            links.sever()

    async def _close_links(self) -> None:
        for links in (self._writing, self._working, self._reading):
            await links.close()

    def _forked(self) -> None:
        if self._is_open:
            self._is_open = False
            for links in (self._writing, self._working, self._reading):
                links.forget()
            self._hints.forget()
            self.session.forget()

    async def doctor(self) -> list[Finding]:
        self.demand_open()
        return await examine(self)

    # --- writing ----------------------------------------------------------------------------------

    async def now(self) -> int:
        self.demand_open()
        if not self.clock.is_fresh:
            row = await self.read_rows("clock", self.clock.high, self.clock.wall)
            self.clock.heard(row[0][0])
        return self.clock.now()

    async def commit(self, batch: Batch) -> Committed:
        result = (await self.commit_group((batch,)))[0]
        if isinstance(result, OutliveError):
            raise result
        return result

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        self.demand_open()
        if len(batches) > GROUP_BATCHES_MAX:
            raise ValueError(f"a group has at most {GROUP_BATCHES_MAX} batches")
        results = await self._to_the_end(self._lane.commit(Group(batches)))
        self._hints.told(at_once=any(map(hands_over, batches, results)))
        return results

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end, also when the caller is cancelled."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def transact(
        self, work: Callable[[Any], Batch] | Work, *, limit_seconds: float = 5.0
    ) -> Committed:
        """See `Store.transact`. `work` may be an `async` function too; it gets `AsyncTables`, or
        what its `manner` asks for (postgres_guests.py)."""
        self.demand_open()
        manner, wall = demand_manner(work), self.clock.wall

        async def run(link: Any) -> Batch:
            return await run_work(work, link, self.schema, limit_seconds, self.sql, wall, manner)

        committed = await self._to_the_end(self._transact(run, limit_seconds, manner))
        self._hints.told()
        return committed

    async def erase(self, streams: Sequence[str], batch: Batch) -> Committed:
        self.demand_open()
        demand_erasable(streams, batch)

        async def run(link: Any) -> Batch:
            await link.execute(self.sql["erase"], list(streams))
            return batch

        try:
            committed = await self._to_the_end(self._transact(run, ERASE_SECONDS))
        except _FOREIGN as error:
            raise mapped(error) from error
        self._hints.told()
        return committed

    async def _transact(
        self, run: Callable[[Any], Awaitable[Batch]], limit_seconds: float, manner: str = MANNERS[0]
    ) -> Committed:
        lane = await self._free.get()
        try:
            return await self._transact_in(lane, run, limit_seconds, manner)
        except Theirs as theirs:
            raise theirs.error from None
        except _FOREIGN as error:
            if getattr(error, "sqlstate", None) == SUPERSEDED:
                await lane.register()
            raise mapped(error) from error
        finally:
            self._free.put_nowait(lane)

    async def _transact_in(
        self, lane: Lane, run: Callable[[Any], Awaitable[Batch]], limit_seconds: float, manner: str
    ) -> Committed:
        sql = self.sql
        async with opened(manner, self._working) as link:
            link.doubtful = False
            idle = max(FROZEN_MILLISECONDS, round(limit_seconds * 2000))
            longest = max(STATEMENT_LIMIT_SECONDS, limit_seconds)
            transaction = transaction_on(link, manner, self._working)
            await transaction.start(idle, longest, max(LOCK_LIMIT_SECONDS, limit_seconds))
            try:
                batch = await run(link)
            except Exception as error:
                if is_cut(error) and (link.is_closed() or isinstance(error, asyncpg.PostgresError)):
                    raise
                raise Theirs(error) from error
            group, number = Group((batch,)), lane.next_number()
            if group.flaws:
                raise group.flaws[0]
            await transaction.demand_sound(sql["idle_limit"], str(FROZEN_MILLISECONDS))
            plan, base = await lane.settle(link, group, number)
            lost: Exception | None = None
            if base is None:
                return _receipt(plan.results(0)[0])  # raises: it was refused
            try:
                await transaction.commit()
            except Exception as error:
                if not is_cut(error):
                    raise
                link.terminate()
                lost = error
        if lost is not None:
            base = await lane.look_up(number, lost)
            if base is None:
                raise StoreUnavailable("The connection was lost; nothing was written.") from lost
        lane.learn(plan, base)
        if lost is not None:
            self._recall.told(lane.name, number, group, plan)
        else:
            lane.acknowledge(link, number, group, plan)
        return _receipt(plan.results(base)[0])

    # --- claims -----------------------------------------------------------------------------------

    async def claim(self, spaces: Sequence[str], limit: int, hold_seconds: float) -> list[Cell]:
        if not spaces:
            return []
        hold, clock = round(hold_seconds * MICROS), self.clock
        values = (list(spaces), min(limit, CLAIM_CELLS_MAX), hold, clock.high, clock.wall)
        rows = await self._to_the_end(self.write_rows("claim", *values))
        if rows:
            clock.raised(rows[0]["due"] - hold)
        cells = [Cell(*row[1:]) for row in rows]
        self._beliefs.claimed(cells, [row[0] for row in rows])
        return cells

    async def write_rows(self, name: str, *values: Any) -> list[Any]:
        """One statement that may be lost without harm: its caller repeats it or lets it lapse."""
        self.demand_open()
        try:
            async with self._working.borrow() as link:
                return await self._working.fetch(link, self.sql[name], *values)
        except _FOREIGN as error:
            if is_cut(error):
                kind = OutcomeUnknown if name == "claim" else StoreUnavailable
                raise kind(
                    f"The connection was lost ({error}): {name} may have been done; repeat it."
                ) from error
            raise mapped(error) from error

    async def next_due(self, spaces: Sequence[str]) -> int | None:
        rows = await self.read_rows("next_due", list(spaces))
        due: int | None = rows[0][0]
        return due

    # --- reading ----------------------------------------------------------------------------------

    async def read_rows(self, name: str, *values: Any) -> list[Any]:
        """The rows of a statement that reads; tried again once on another connection."""
        self.demand_open()
        for attempt in range(1, READ_TRIES + 1):
            try:
                async with self._reading.borrow() as link:
                    return await self._reading.fetch(link, self.sql[name], *values)
            except _FOREIGN as error:
                if attempt == READ_TRIES or not is_cut(error):
                    raise mapped(error) from error
        raise AssertionError("the last try either gave rows or raised")

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        found: list[Cell | None] = [None] * len(refs)
        rows = await self.read_rows("cells", [r.space for r in refs], [r.key for r in refs])
        for row in rows:
            found[row[0] - 1] = Cell(*row[1:])
        return found

    async def scan(self, space: str, after: str = "", limit: int = 1000) -> list[Cell]:
        return [Cell(*row) for row in await self.read_rows("scan", space, after, limit)]

    async def select(
        self,
        spaces: Sequence[str],
        mark: str,
        low: str,
        high: str,
        limit: int = 1000,
        *,
        newest: bool = False,
    ) -> list[tuple[str, Cell]]:
        name = "select_newest" if newest else "select_oldest"
        rows = await self.read_rows(name, mark, low, high, list(spaces), limit)
        return [(row[0], Cell(*row[1:])) for row in rows]

    async def events(self, stream: str, after: int = -1, limit: int = 100_000) -> list[Event]:
        return [Event(*row) for row in await self.read_rows("events", stream, after, limit)]

    async def histories(
        self, streams: Sequence[str], limit: int = 100_000
    ) -> dict[str, list[Event]]:
        wanted = list(dict.fromkeys(streams))
        rows = await self.read_rows("histories", wanted, limit + 1) if wanted else []
        if len(rows) > limit:  # the last one may not be whole
            wanted = wanted[: wanted.index(rows[-1]["stream"])]
        found: dict[str, list[Event]] = {stream: [] for stream in wanted}
        for row in rows:
            if (events := found.get(row["stream"])) is not None:
                events.append(Event(*row))
        self._beliefs.read(found)
        return found

    async def lengths(self, streams: Sequence[str]) -> dict[str, int]:
        return {row[0]: row[1] for row in await self.read_rows("lengths", list(streams))}

    async def tail(self, shard: int, after: int, limit: int = 1000) -> list[Event]:
        return [Event(*row) for row in await self.read_rows("tail", shard, max(after, 0), limit)]

    # --- shards -----------------------------------------------------------------------------------

    async def owners(self) -> list[Shard]:
        return [Shard(*row) for row in await self.read_rows("shards")]

    async def take(self, shard: int, epoch: int, owner: str) -> Lease:
        self.demand_open()
        lease = await self._to_the_end(self._takes.take(shard, epoch, owner))
        self._hints.told()
        return lease

    async def release(self, lease: Lease) -> None:
        self.demand_open()
        await self._to_the_end(self.write_rows("release", lease.shard, lease.epoch, lease.owner))
        self._beliefs.chains.pop(lease.shard, None)
        self._hints.told()

    async def ledger(self, shard: int | None = None, limit: int = 1000) -> list[Hold]:
        if shard is None:
            rows = await self.read_rows("holds", limit)
        else:
            rows = await self.read_rows("holds_of", shard, limit)
        return [Hold(*row) for row in rows]

    async def announce(self, node: str, told: Callable[[bool], None] | None = None) -> None:
        self.demand_open()
        await self._presence.announce(node, told)

    async def departed(self, nodes: Sequence[str]) -> set[str]:
        """See `Store.departed`; who asks once learns of nobody, who asks again and again does."""
        return self._presence.believed(await self.missed(nodes))

    async def missed(self, nodes: Sequence[str]) -> set[str]:
        """Those of `nodes` that once gave a sign of life and give none at this moment."""
        return {row[0] for row in await self.read_rows("nodes_departed", list(nodes))}

    # --- hints ------------------------------------------------------------------------------------

    async def changed(self, seen: int, timeout_seconds: float) -> int:
        self.demand_open()
        return await self._hints.changed(seen, timeout_seconds)

    def demand_open(self) -> None:
        """Raise `StoreUnavailable` unless the store is open, `StoreWentBack` if it went back."""
        if self._recall.lost is not None:
            raise self._recall.lost
        if not self._is_open:
            raise StoreUnavailable("The store is closed; nothing was read or written.")


def _receipt(result: Committed | OutliveError) -> Committed:
    if isinstance(result, OutliveError):
        raise result
    return result


_FOREIGN = (*CUT, asyncpg.PostgresError)


def _lock_of(name: str) -> int:
    made = blake2b(f"outlive schema {name}".encode(), digest_size=8).digest()
    return int.from_bytes(made, "big", signed=True)


_stores: weakref.WeakSet[PostgresStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store._forked()


os.register_at_fork(after_in_child=_after_fork)
