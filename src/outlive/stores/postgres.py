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

Needs a role that owns its schema and nothing else, PostgreSQL 14 or newer, and the primary. Behind
a pooler in transaction mode use `statement_cache_size=0`; there are then no signs of life.

Not promised: anything on a replica; speed under a `default_transaction_isolation` other than READ
COMMITTED, where claims and takes may be refused as busy.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Coroutine, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import asyncpg

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import (
    Fenced,
    OutliveError,
    ReadOnlyStore,
    StoreCorrupt,
    StoreRefused,
    StoreUnavailable,
)
from outlive.model import Batch, Cell, Committed, Event, Hold, Lease, Ref, Shard
from outlive.store import CLAIM_CELLS_MAX, GROUP_BATCHES_MAX, Blobs, Finding
from outlive.stores import sql
from outlive.stores.chain import GENESIS
from outlive.stores.migrate import pending
from outlive.stores.postgres_blobs import PostgresBlobs
from outlive.stores.postgres_doctor import examine
from outlive.stores.postgres_group import Chains, Group
from outlive.stores.postgres_lane import FROZEN_MILLISECONDS, SUPERSEDED, Lane, ServerClock
from outlive.stores.postgres_links import (
    CUT,
    Connection,
    Links,
    is_cut,
    mapped,
    placed,
    schema_checked,
    statements,
)
from outlive.stores.postgres_presence import PostgresPresence
from outlive.stores.postgres_tables import Work, run_work

T = TypeVar("T")
SHARDS_MAX = 1024
SERVER_MIN = 140_000
"""`server_version_num` of the oldest server this is tested for."""
READING_LINKS = 4
TRANSACT_LANES = 4
"""Functions of `transact` at a time; the others wait."""
POLL_SECONDS = 0.05
"""How often other nodes' commits are looked for while somebody waits."""
POLL_AGAIN_SECONDS = 1.0
READ_TRIES = 2
TAKE_TRIES = 5
WRITER_FORGET_MICROS = 7 * 86_400 * MICROS


class PostgresStore:
    """A store in `schema` of the database at `dsn` (`postgresql://user:pass@host/db`).

    `shards` (1 to `SHARDS_MAX`) counts when the store is made; an existing one keeps its own.
    `clock` is a test's: the host's own is never asked, the server's is. `statement_cache_size=0`
    says that a pooler stands between. Nothing is opened before `open()`. After a fork the child's
    copy is closed: it opens a store of its own.
    """

    def __init__(
        self,
        dsn: str,
        shards: int = 64,
        clock: Clock | None = None,
        *,
        schema: str = "outlive",
        statement_cache_size: int = 100,
    ) -> None:
        if not 1 <= shards <= SHARDS_MAX:
            raise ValueError(f"shards must be 1 to {SHARDS_MAX}, not {shards}")
        self.shards = shards
        self.schema = schema_checked(schema)
        self.incarnation = ""
        self.sql = statements(schema)
        self._dsn = dsn
        self._pooled = statement_cache_size == 0
        self._cache_size = statement_cache_size
        self.clock = ServerClock(clock)
        self.blobs: Blobs = PostgresBlobs(self)
        self._chains: Chains = {}
        self._is_open = False
        self._generation = 0
        self._seen: tuple[int, ...] = ()
        self._news = asyncio.Event()
        self._waiting = 0
        self._poller: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        _stores.add(self)

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> None:
        machine, cache = Clock(), self._cache_size
        self._writing = Links(self._dsn, 1, cache, machine)
        self._working = Links(self._dsn, TRANSACT_LANES, cache, machine)
        self._reading = Links(self._dsn, READING_LINKS, cache, machine)
        self._presence = PostgresPresence(self._reading, self.sql, self.schema, self.clock)
        writer = ids.node_id()
        self._lane = Lane(writer, self._writing, self.sql, self.clock, self._chains)
        self._free: asyncio.LifoQueue[Lane] = asyncio.LifoQueue()
        lanes = [self._lane]
        for number in range(TRANSACT_LANES):
            name = f"{writer}/{number}"
            lanes.append(Lane(name, self._working, self.sql, self.clock, self._chains))
            self._free.put_nowait(lanes[-1])
        try:
            async with self._writing.borrow() as link:
                await self._demand_server(link)
                await link.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                await self._migrate(link)
                await self._start(link, [lane.name for lane in lanes])
                await link.execute("COMMIT")
        except BaseException as error:
            await self._close_links()
            if isinstance(error, _FOREIGN):
                raise mapped(error) from error
            raise
        for links in (self._writing, self._working, self._reading):
            links.check = self._demand_same
        self._is_open = True

    async def _demand_same(self, link: Connection) -> None:
        """A new connection must lead to the store that was opened."""
        rows = await self._reading.fetch(link, self.sql["incarnation"])
        if not rows or rows[0][0] != self.incarnation:
            raise StoreCorrupt(
                f"Schema {self.schema} holds another store than the one that was opened: the "
                "database was replaced. Nothing was written."
            )

    async def _demand_server(self, link: Connection) -> None:
        version, number, in_recovery = await link.fetchrow(self.sql["doctor_server"])
        if number < SERVER_MIN:
            raise StoreRefused(
                f"PostgreSQL {version} is too old; {SERVER_MIN // 10_000} or newer is needed."
            )
        if in_recovery:
            raise ReadOnlyStore("The server is a standby; the address must lead to the primary.")

    async def _migrate(self, link: Connection) -> None:
        shipped = sql.migrations("postgres")
        await link.execute(self.sql["migration_lock"], _lock_of(self.schema))
        if not await link.fetchval(self.sql["schema_exists"], self.schema):
            await link.execute(self.sql["schema_make"])
        exists = await link.fetchval(self.sql["migrations_exist"], self.schema)
        applied = await link.fetch(self.sql["migrations"]) if exists else []
        wanted = pending(shipped, [tuple(row) for row in applied])
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
        self._tell()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait((self._poller,))
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._presence.close()
        await self._close_links()

    async def _close_links(self) -> None:
        for links in (self._writing, self._working, self._reading):
            await links.close()

    def _forked(self) -> None:
        if self._is_open:
            self._is_open = False
            for links in (self._writing, self._working, self._reading):
                links.forget()
            self._presence.forget()

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
        self._tell()
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
        """See `Store.transact`. `work` may be an `async` function too; it gets `AsyncTables`."""
        self.demand_open()
        committed = await self._to_the_end(self._transact(work, limit_seconds))
        self._tell()
        return committed

    async def _transact(self, work: Work, limit_seconds: float) -> Committed:
        lane = await self._free.get()
        try:
            return await self._transact_in(lane, work, limit_seconds)
        except _Theirs as theirs:
            raise theirs.error from None
        except _FOREIGN as error:
            if getattr(error, "sqlstate", None) == SUPERSEDED:
                await lane.register()
            raise mapped(error) from error
        finally:
            self._free.put_nowait(lane)

    async def _transact_in(self, lane: Lane, work: Work, limit_seconds: float) -> Committed:
        async with self._working.borrow() as link:
            link.doubtful = False
            await link.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            idle = max(FROZEN_MILLISECONDS, round(limit_seconds * 2000))
            await link.execute(self.sql["idle_limit"], str(idle))
            try:
                batch = await run_work(work, link, self.schema, limit_seconds)
            except Exception as error:
                if is_cut(error):
                    raise
                raise _Theirs(error) from error
            group, number = Group((batch,)), lane.next_number()
            if group.flaws:
                raise group.flaws[0]
            await link.execute(self.sql["idle_limit"], str(FROZEN_MILLISECONDS))
            plan, base = await lane.settle(link, group, number)
            lost: Exception | None = None
            if base is None:
                return _receipt(plan.results(0)[0])  # raises: it was refused
            try:
                await link.execute("COMMIT")
            except Exception as error:
                if not is_cut(error):
                    raise
                link.terminate()
                lost = error
        if lost is not None:
            base = await lane.look_up(number, lost)
            if base is None:
                raise StoreUnavailable("The connection was lost; nothing was written.") from lost
        lane.demand_certain(link, group)
        lane.learn(plan)
        return _receipt(plan.results(base)[0])

    # --- claims -----------------------------------------------------------------------------------

    async def claim(self, spaces: Sequence[str], limit: int, hold_seconds: float) -> list[Cell]:
        self.demand_open()
        if not spaces:
            return []
        hold, clock = round(hold_seconds * MICROS), self.clock
        values = (list(spaces), min(limit, CLAIM_CELLS_MAX), hold, clock.high, clock.wall)
        rows = await self._to_the_end(self.write_rows("claim", *values))
        if rows:
            clock.raised(rows[0]["due"] - hold)
            self._tell()
        return [Cell(*row[1:]) for row in rows]

    async def write_rows(self, name: str, *values: Any) -> list[Any]:
        """One statement that may be lost without harm: its caller repeats it or lets it lapse."""
        self.demand_open()
        try:
            async with self._working.borrow() as link:
                return await self._working.fetch(link, self.sql[name], *values)
        except _FOREIGN as error:
            if is_cut(error):
                raise StoreUnavailable(
                    f"The connection was lost ({error}): {name} may have been done. It is safe to "
                    "do it again; what was claimed comes again after its hold."
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

    async def lengths(self, streams: Sequence[str]) -> dict[str, int]:
        return {row[0]: row[1] for row in await self.read_rows("lengths", list(streams))}

    async def tail(self, shard: int, after: int, limit: int = 1000) -> list[Event]:
        return [Event(*row) for row in await self.read_rows("tail", shard, max(after, 0), limit)]

    # --- shards -----------------------------------------------------------------------------------

    async def owners(self) -> list[Shard]:
        return [Shard(*row) for row in await self.read_rows("shards")]

    async def take(self, shard: int, epoch: int, owner: str) -> Lease:
        self.demand_open()
        lease = await self._to_the_end(self._take(shard, epoch, owner))
        self._tell()
        return lease

    async def _take(self, shard: int, epoch: int, owner: str) -> Lease:
        lost = False
        for attempt in range(1, TAKE_TRIES + 1):
            self._chains.pop(shard, None)
            try:
                async with self._working.borrow() as link:
                    rows = await self._working.fetch(
                        link, self.sql["take"], shard, epoch, owner, self.clock.high,
                        self.clock.wall,
                    )  # fmt: skip
                    if not rows and lost:  # then the lost try may have been the one that won
                        held = await self._working.fetch(
                            link, self.sql["hold_read"], shard, epoch + 1
                        )
                        if held and held[0]["owner"] == owner:
                            return Lease(shard, owner, epoch + 1)
                break
            except _FOREIGN as error:
                lost = is_cut(error)
                if not lost or attempt == TAKE_TRIES:
                    raise mapped(error) from error
        if not rows:
            raise Fenced(f"Shard {shard} is not at epoch {epoch} any more; it was not taken.")
        row = rows[0]
        self.clock.raised(row["moment"])
        if row["head"] == 0 or row["chain"] is not None:
            self._chains[shard] = (row["head"], row["chain"] or GENESIS)
        return Lease(shard, owner, row["epoch"])

    async def release(self, lease: Lease) -> None:
        self.demand_open()
        await self._to_the_end(self.write_rows("release", lease.shard, lease.epoch, lease.owner))
        self._chains.pop(lease.shard, None)
        self._tell()

    async def ledger(self, shard: int | None = None, limit: int = 1000) -> list[Hold]:
        if shard is None:
            rows = await self.read_rows("holds", limit)
        else:
            rows = await self.read_rows("holds_of", shard, limit)
        return [Hold(*row) for row in rows]

    async def announce(self, node: str) -> None:
        self.demand_open()
        if not self._pooled:
            await self._presence.announce(node)

    async def departed(self, nodes: Sequence[str]) -> set[str]:
        """See `Store.departed`; who asks once learns of nobody, who asks again and again does."""
        return self._presence.believed(await self.missed(nodes))

    async def missed(self, nodes: Sequence[str]) -> set[str]:
        """Those of `nodes` that once gave a sign of life and give none at this moment."""
        return {row[0] for row in await self.read_rows("nodes_departed", list(nodes))}

    # --- hints ------------------------------------------------------------------------------------

    async def changed(self, seen: int, timeout_seconds: float) -> int:
        self.demand_open()
        if seen == self._generation:
            self._waiting += 1
            if self._poller is None or self._poller.done():
                self._poller = asyncio.ensure_future(self._poll())
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._news.wait()
            except TimeoutError:
                pass
            finally:
                self._waiting -= 1
        return self._generation

    async def _poll(self) -> None:
        """Look for other nodes' commits until nobody waits any more."""
        while self._waiting and self._is_open:
            wait = POLL_SECONDS
            try:
                row = tuple((await self.read_rows("changes"))[0])
            except OutliveError:
                wait = POLL_AGAIN_SECONDS
            else:
                if row != self._seen:
                    self._seen = row
                    self._tell()
            await asyncio.sleep(wait)

    def _tell(self) -> None:
        self._generation += 1
        self._news.set()
        self._news = asyncio.Event()

    def demand_open(self) -> None:
        """Raise `StoreUnavailable` unless the store is open."""
        if not self._is_open:
            raise StoreUnavailable("The store is closed; nothing was read or written.")


class _Theirs(Exception):
    """The caller's function raised; the error is theirs, and not the store's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


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
