"""Cells in Redis or Valkey (7 or newer): quick, shared, and kept in memory.

    one store ──one connection──> a pipeline for each turn of the event loop (redis_line.py)
                                  scripts that read and write in one step (lua/)

What "acknowledged" means: in the server's memory, and nothing more (`volatile`). What the server
does beyond that is its own configuration, and opening the store says so in the log:

    a restart or crash of the server     loses what its own persistence had not written
    a fail-over to a replica             loses what the replica had not received
    `maxmemory` with an eviction policy  loses single cells at any time

The clock is the server's, with a high-water mark. Versions are drawn above the time in
microseconds, so they rise also over a server that has lost everything: a fencing token stays one.

Not promised: the journal, blobs, `transact` (this is a store of cells), `durable` and `relaxed`
batches (refused), more than one hash slot of a cluster, or anything after a fork: a child opens a
store of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from outlive.clock import MICROS, Clock
from outlive.errors import OutliveError, Refused, StoreRefused, StoreUnavailable
from outlive.model import Batch, Cell, Committed, Ref, Storage
from outlive.store import CLAIM_CELLS_MAX, GROUP_BATCHES_MAX, VALUE_BYTES_MAX, Finding
from outlive.stores.redis_line import RedisLine, named, plain
from outlive.stores.refusals import conflict, too_large

log = logging.getLogger("outlive.stores")

RELEASE_MIN = 7
FRESH_SECONDS = 1.0
POLL_SECONDS = 0.05
"""How often another process's commits are looked for while somebody waits."""


class RedisStore:
    """A store of cells on the Redis or Valkey server at `address` (`redis://…`, `rediss://…`).

    `prefix` is what all its keys begin with, in braces: stores with different ones share a server
    and nothing else. `clock` is the server's own unless a test brings one. Nothing is connected
    before `open()`.
    """

    def __init__(
        self, address: str, clock: Clock | None = None, *, prefix: str = "outlive"
    ) -> None:
        self.keeps: tuple[Storage, ...] = ("volatile",)
        self.lacks: Mapping[str, str] = {}
        self._line = RedisLine(address, prefix)
        self._clock = clock
        self._is_open = False
        self._process = 0
        self._local = asyncio.Event()

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`, and `StoreRefused` for a server that is too old."""
        self._is_open, self._process = True, os.getpid()
        try:
            found = _facts(await self._line.command("INFO"))
            release = found.get("valkey_version") or found.get("redis_version", "0")
            if int(found.get("redis_version", "0").split(".")[0]) < RELEASE_MIN:
                raise StoreRefused(
                    f"Redis {release} is too old: {RELEASE_MIN} is needed; nothing was opened."
                )
        except BaseException:
            await self.close()
            raise
        for finding in _findings(found):
            level = logging.WARNING if finding.level == "warn" else logging.INFO
            log.log(level, "redis %s: %s", finding.name, finding.text)

    async def close(self) -> None:
        self._is_open = False
        self._tell()
        await self._line.close()

    async def doctor(self) -> list[Finding]:
        """What the server keeps, and what it loses when."""
        self._look()
        return _findings(_facts(await self._line.command("INFO")))

    async def emptied(self) -> int:
        """When somebody noticed, at a new connection, that the server had lost everything; 0 when
        nobody has. Not noticed: that it was emptied under connections that stood."""
        self._look()
        return int(await self._line.command("HGET", self._line.prefix + b"s", "emptied") or 0)

    async def trust(self) -> None:
        """Forget that it was emptied."""
        self._look()
        await self._line.command("HDEL", self._line.prefix + b"s", "emptied")

    # --- writing ----------------------------------------------------------------------------------

    async def now(self) -> int:
        """See `CellStore.now`.

        What the server said less than `FRESH_SECONDS` ago is carried on with this machine's clock:
        that is before the server's own time by as long as its answer took to come here, but for
        what two clocks can drift apart in a second (half a millisecond where one is being set).
        """
        self._look()
        line = self._line
        since = line.clock.boot() - line.heard_at
        if line.given or not 0 <= since < FRESH_SECONDS:
            line.hear(int(await line.ask("clock", line.given, line.high)))
            return line.high
        line.high = max(line.high, line.heard + int(since * MICROS))
        return line.high

    async def commit(self, batch: Batch) -> Committed:
        result = (await self.commit_group((batch,)))[0]
        if isinstance(result, OutliveError):
            raise result
        return result

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        self._look()
        if len(batches) > GROUP_BATCHES_MAX:
            raise ValueError(f"a group has at most {GROUP_BATCHES_MAX} batches")
        if not batches:
            return []
        flaws = [_flaw(batch) for batch in batches]
        sound = [batch for batch, wrong in zip(batches, flaws, strict=True) if wrong is None]
        if not sound:
            return [wrong for wrong in flaws if wrong is not None]
        time, results = await self._line.commit(sound)
        self._tell()
        receipts = iter([_receipt(*pair, time) for pair in zip(sound, results, strict=True)])
        return [next(receipts) if wrong is None else wrong for wrong in flaws]

    async def claim(self, spaces: Sequence[str], limit: int, hold_seconds: float) -> list[Cell]:
        self._look()
        line, most = self._line, min(limit, CLAIM_CELLS_MAX)
        names = [named(space) for space in dict.fromkeys(spaces)]
        hold = round(hold_seconds * MICROS)
        time, *rows = await line.ask(
            "claim", line.given, line.high, most, hold, *names, changes=True
        )
        line.hear(int(time))
        self._tell()
        return [_cell(plain(space), plain(key), rest) for space, key, *rest in rows]

    # --- reading ----------------------------------------------------------------------------------

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        self._look()
        if not refs:
            return []
        names = [named(word) for ref in refs for word in (ref.space, ref.key)]
        rows = await self._line.ask("read", *names)
        return [
            None if row[1] is None else _cell(ref.space, ref.key, row)
            for ref, row in zip(refs, rows, strict=True)
        ]

    async def next_due(self, spaces: Sequence[str]) -> int | None:
        self._look()
        found = await self._line.ask("next_due", *map(named, spaces))
        return None if found is None else int(found)

    async def scan(self, space: str, after: str = "", limit: int = 1000) -> list[Cell]:
        self._look()
        rows = await self._line.ask("scan", named(space), named(after), limit)
        return [_cell(space, plain(key), rest) for key, *rest in rows]

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
        self._look()
        words = [named(word) for word in (mark, low, high)]
        rows = await self._line.ask("select", *words, limit, int(newest), *map(named, spaces))
        return [(plain(row[0]), _cell(plain(row[1]), plain(row[2]), row[3:])) for row in rows]

    async def changed(self, seen: int, timeout_seconds: float) -> int:
        self._look()
        count = await self._changes()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while count == seen:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_SECONDS):
                            await self._local.wait()
                    self._look()
                    count = await self._changes()
        return count

    async def _changes(self) -> int:
        found = await self._line.command("HGET", self._line.prefix + b"s", "changes")
        return int(found or 0)

    def _tell(self) -> None:
        self._local.set()
        self._local = asyncio.Event()

    def _look(self) -> None:
        """Raises `StoreUnavailable` while the store is closed, and in a forked child."""
        if not self._is_open or self._process != os.getpid():
            raise StoreUnavailable("The store is closed; nothing was read or written.")
        if self._clock is not None:
            self._line.given = str(self._clock.wall())


def _flaw(batch: Batch) -> OutliveError | None:
    if batch.append or batch.lease is not None:
        raise ValueError("Redis keeps cells only: a batch for it has no lease and appends nothing")
    if batch.storage != "volatile":
        return Refused(f"Redis keeps no {batch.storage} cells; nothing was written.")
    for put in batch.put:
        if len(put.value) > VALUE_BYTES_MAX:
            return too_large(f"cell {put.ref.space}/{put.ref.key}", len(put.value))
    return None


def _receipt(batch: Batch, result: Sequence[int], time: int) -> Committed | OutliveError:
    if result and result[0] == -1:
        need = batch.require[result[1]]
        return conflict(need.ref, need.version, result[2])
    return Committed(time, tuple(result))


def _cell(space: str, key: str, row: Sequence[Any]) -> Cell:
    value, version, due = row
    return Cell(space, key, value, int(version), int(due) if due else None)


def _facts(info: bytes) -> dict[str, str]:
    """The lines of INFO by name."""
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}


def _findings(facts: dict[str, str]) -> list[Finding]:
    """What the server keeps and what it loses, from what it says of itself."""
    policy = facts.get("maxmemory_policy", "unknown")
    written = facts.get("aof_enabled") == "1"
    text = (
        "volatile: acknowledged is in the server's memory; a crash or restart loses what its own "
        f"persistence had not written (append-only file {'on' if written else 'off'}), a fail-over "
        f"what the replica had not received ({facts.get('connected_slaves', '0')} connected)"
    )
    found = [Finding("durability", "ok" if written else "warn", text, "set appendonly yes")]
    if policy != "noeviction" and facts.get("maxmemory", "0") != "0":
        text = f"maxmemory-policy is {policy}: single cells may go at any time"
        found.append(Finding("eviction", "warn", text, "set maxmemory-policy noeviction"))
    else:
        text = f"maxmemory-policy {policy}: a full server refuses to write, and keeps what it has"
        found.append(Finding("eviction", "ok", text))
    return found
