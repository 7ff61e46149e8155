"""Cells in memcached: the least a store of cells can be, for what may be lost at any time.

    item    prefix:digest   ──>   version (8 bytes) · due (8) · mark of the write (8) · value

A write is conditional on the item's unique number (`cas`) as it was read with the version that is
required; so two writers of one cell never both win, and no script is needed.

What "acknowledged" means: one server had it in memory (`volatile`). A restart of that server loses
all it had; a full server drops what was not used for longest; a change of the list of servers in
the address makes a part of the cells be looked for where they are not.

Not promised, and said in `lacks`, in the types and in the log when it is opened:

    batches    of several cells: a batch is about one cell, and cells of one read are each of a
               moment of their own
    claim      who expires what: an item goes by itself, about a second after its due
    scan       and `select`: cells are found by their key alone; marks are refused
    a clock    memcached has none to ask: it is this host's, never set back. Hosts that share a
               limit or a session need clocks that agree (NTP)
    a refusal  that leaves things as they were, of a value that memcached has no room for: it
               forgets what it could not replace
    versions   after a cell was dropped, evicted or lost: they are drawn above the time in
               microseconds, so they rise as long as the hosts' clocks agree
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.codec import digest
from outlive.errors import (
    BadAddress,
    Conflict,
    OutcomeUnknown,
    OutliveError,
    Refused,
    StoreFull,
    StoreUnavailable,
)
from outlive.model import ABSENT, Batch, Cell, Committed, Put, Ref, Require, Storage
from outlive.store import GROUP_BATCHES_MAX, VALUE_BYTES_MAX
from outlive.stores.memcached_line import MemcachedLine
from outlive.stores.refusals import conflict, too_large

log = logging.getLogger("outlive.stores")

LACKS: Mapping[str, str] = MappingProxyType({
    "batches": "memcached writes one cell at a time",
    "claim": "memcached hands nothing out: it forgets what is due by itself",
    "scan": "memcached finds a cell by its key alone",
    "select": "memcached finds a cell by its key alone, and keeps no marks",
})  # fmt: skip
PORT, PORT_MAX = 11211, 65535
SERVERS_MAX = 64
TRIES_MAX = 100
"""How often an unconditional write is tried against others that write the same cell."""
RELATIVE_SECONDS_MAX = 30 * 86_400
"""Above this memcached takes a number of seconds for a time since 1970."""
ENDS_MAX = 2**31 - 1
"""The latest second since 1970 that memcached understands: in January 2038."""
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?")
_HEAD = struct.Struct(">qq8s")
_NEVER = -(2**63)


class MemcachedStore:
    """A store of single cells on the memcached servers `servers` (`host:port,host:port`).

    `prefix` is what its keys begin with. `clock` is this host's unless a test brings one. A value
    may have as many bytes as the server takes (`-I`, a megabyte if nothing is said).
    """

    def __init__(
        self, servers: str, clock: Clock | None = None, *, prefix: str = "outlive"
    ) -> None:
        self.keeps: tuple[Storage, ...] = ("volatile",)
        self.lacks = LACKS
        self._prefix = prefix.encode()
        if not prefix.isascii() or not prefix.isprintable() or " " in prefix or len(prefix) > 64:
            raise BadAddress("The prefix of a memcached store is at most 64 plain characters.")
        self._lines = _lines(servers)
        self._clock = clock or Clock()
        self._is_open, self._process, self._high = False, 0, 0

    async def open(self) -> None:
        """Connect to every server. Raises `StoreUnavailable`."""
        self._is_open, self._process = True, os.getpid()
        try:
            for line in self._lines:
                await line.ask(b"mn")
        except BaseException:
            await self.close()
            raise
        for name, why in self.lacks.items():
            log.info("memcached promises no %s: %s", name, why)
        log.warning(
            "memcached is volatile: a restart, a full server or another list of servers loses cells"
        )

    async def close(self) -> None:
        self._is_open = False
        for line in self._lines:
            await line.close()

    async def now(self) -> int:
        self._look()
        self._high = max(self._high, self._clock.wall())
        return self._high

    # --- writing ----------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> Committed:
        result = (await self.commit_group((batch,)))[0]
        if isinstance(result, OutliveError):
            raise result
        return result

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        """Each batch is answered by itself; those about one cell are written in their order, the
        others at once."""
        self._look()
        if len(batches) > GROUP_BATCHES_MAX:
            raise ValueError(f"a group has at most {GROUP_BATCHES_MAX} batches")
        results: list[Committed | OutliveError] = [Refused()] * len(batches)
        of_cell: dict[Ref | None, list[int]] = {}
        for at, batch in enumerate(batches):
            wrong = _flaw(batch)
            if wrong is not None:
                results[at] = wrong
            else:
                of_cell.setdefault(_ref_of(batch), []).append(at)

        async def write(ref: Ref | None, places: list[int]) -> None:
            for at in places:
                try:
                    results[at] = await self._write(ref, batches[at])
                except OutliveError as error:
                    results[at] = error

        await asyncio.gather(*(write(ref, places) for ref, places in of_cell.items()))
        return results

    async def _write(self, ref: Ref | None, batch: Batch) -> Committed:
        now = await self.now()
        if ref is None:
            return Committed(now)
        for _ in range(TRIES_MAX):
            cell, cas = await self._get(ref)
            found = ABSENT if cell is None else cell.version
            for need in batch.require:
                if need.version != found:
                    raise conflict(need.ref, need.version, found)
            if batch.put:
                version = max(found + 1, now)
                if await self._set(batch.put[-1], version, cas, now):
                    return Committed(now, (version,))
            elif not batch.drop or cell is None or await self._delete(ref, cas):
                return Committed(now)
        raise Conflict("Others have written the cell each time; nothing was written.", ref=ref)

    async def _set(self, put: Put, version: int, cas: bytes, now: int) -> bool:
        """Write over what was read as `cas` (empty: nothing); False when another was faster."""
        key, line = self._at(put.ref)
        mark = ids.secret(8)
        due = _NEVER if put.due is None else put.due
        data = _HEAD.pack(version, due, mark) + put.value
        held = b"C" + cas if cas else b"ME"
        asked = b"ms %s %d T%d %s" % (key, len(data), _seconds(put.due, now), held)
        try:
            (word, *_), _ = await line.ask(asked, data, changes=True)
        except OutcomeUnknown as error:
            await self._resolve(put.ref, mark, error)
            return True
        if word == b"HD":
            return True
        if word in (b"EX", b"NS", b"NF"):
            return False
        if word == b"SERVER_ERROR":
            raise StoreFull(
                "memcached has no room for the value: it was not written, and what was there is "
                "gone, because memcached forgets a cell that it could not replace."
            )
        raise StoreUnavailable(f"memcached answered {word!r}; nothing was written.")

    async def _resolve(self, ref: Ref, mark: bytes, error: OutcomeUnknown) -> None:
        """A write whose answer was lost is a fact when its mark is found. Raises `error` when not:
        the lost one might still arrive."""
        key, line = self._at(ref)
        try:
            words, data = await line.ask(b"mg %s v" % key)
        except StoreUnavailable:
            raise error from None
        if words[0] != b"VA" or _HEAD.unpack_from(data)[2] != mark:
            raise error

    async def _delete(self, ref: Ref, cas: bytes) -> bool:
        key, line = self._at(ref)
        (word, *_), _ = await line.ask(b"md %s C%s" % (key, cas), changes=True)
        return word == b"HD"  # another who dropped it has done so: what was required is no more

    # --- reading ----------------------------------------------------------------------------------

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        self._look()
        found = await asyncio.gather(*(self._get(ref) for ref in refs))
        return [cell for cell, _ in found]

    async def _get(self, ref: Ref) -> tuple[Cell | None, bytes]:
        """The cell, and the unique number of what is there."""
        key, line = self._at(ref)
        words, data = await line.ask(b"mg %s v c" % key)
        if words[0] != b"VA":
            return None, b""
        version, due, _ = _HEAD.unpack_from(data)
        (cas,) = (word[1:] for word in words[2:] if word[:1] == b"c")
        value = data[_HEAD.size :]
        return Cell(ref.space, ref.key, value, version, None if due == _NEVER else due), cas

    def _at(self, ref: Ref) -> tuple[bytes, MemcachedLine]:
        """The key of a cell, and the server that keeps it: the one with the highest score, so that
        a server that goes takes only its own cells along."""
        name = digest(ref.space.encode(), ref.key.encode()).encode()
        key = self._prefix + b":" + name
        if len(self._lines) == 1:
            return key, self._lines[0]
        return key, max(self._lines, key=lambda line: _score(line.name, name))

    def _look(self) -> None:
        if not self._is_open or self._process != os.getpid():
            raise StoreUnavailable("The store is closed; nothing was read or written.")


def _score(server: str, name: bytes) -> bytes:
    """How much a server wants a cell. A hash in which each bit depends on all: with a checksum two
    servers' scores differ by the same bits for every cell, and one gets half of all."""
    return hashlib.blake2b(server.encode() + b" " + name, digest_size=8).digest()


def _lines(servers: str) -> list[MemcachedLine]:
    found = []
    for one in filter(None, servers.rpartition("@")[2].split(",")):
        place = _SERVER.fullmatch(one)
        if place is None or int(place[2] or PORT) > PORT_MAX:
            raise BadAddress("A server of the memcached store is host:port.")
        found.append(MemcachedLine(place[1].strip("[]"), int(place[2] or PORT)))
    if not 1 <= len(found) <= SERVERS_MAX:
        raise BadAddress(f"The address of the memcached store names 1 to {SERVERS_MAX} servers.")
    return found


def _ref_of(batch: Batch) -> Ref | None:
    if batch.put:
        return batch.put[0].ref
    if batch.require:
        return batch.require[0].ref
    return batch.drop[0] if batch.drop else None


def _flaw(batch: Batch) -> OutliveError | None:
    if batch.append or batch.lease is not None:
        raise ValueError("memcached keeps cells only: a batch has no lease and appends nothing")
    if batch.storage != "volatile":
        return Refused(f"memcached keeps no {batch.storage} cells; nothing was written.")
    named: list[Put | Require] = [*batch.put, *batch.require]
    if len({*(one.ref for one in named), *batch.drop}) > 1:
        return Refused(f"{LACKS['batches']}; nothing was written.")
    for put in batch.put:
        if put.marks:
            return Refused(f"{LACKS['select']}; nothing was written.")
        if len(put.value) > VALUE_BYTES_MAX:
            return too_large(f"cell {put.ref.space}/{put.ref.key}", len(put.value))
    return None


def _seconds(due: int | None, now: int) -> int:
    """How long an item is kept, as memcached wants it said: a second longer than until its due,
    because memcached counts whole ones; 0, for ever, for one without a due, and for one so late
    that memcached would take it for a time in the past."""
    if due is None:
        return 0
    seconds = max(1, -(-(due - now) // MICROS) + 1)
    if seconds < RELATIVE_SECONDS_MAX:
        return seconds
    ends = now // MICROS + seconds
    return ends if ends <= ENDS_MAX else 0
