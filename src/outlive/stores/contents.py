"""All that is in a store, row by row, in one order that every place of keeping shares.

    facts      what the store is: incarnation, shards, version counter, clock, how much there is
    sections   holds, events, cells, blobs; each in the order of its key, so that the last key
               written says how far a copy came, and nothing else needs to be kept about it
    row        a plain tuple, the same from SQLite, PostgreSQL and an archive:

        holds      shard, epoch, owner, head, time, previous
        events     shard, seq, stream, n, kind, time, data, chain
        cells      space, key, version, due, marks (JSON), value
        blobs      name, time, data

`Inspection` looks at every row that passes it: the hash chain and the density of every shard, the
digest of every blob. Its sums (a count and a SHA-256 for each section) are equal for two places
exactly when their contents are.

Memory is bounded: a page has at most `PAGE_ROWS` rows and about `PAGE_BYTES`, or one value; one
blob is held at a time; of all blobs only the names
are held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from hashlib import sha256
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from outlive.errors import StoreCorrupt
from outlive.model import ERASED, Shard
from outlive.stores.blobs import verified
from outlive.stores.chain import GENESIS, link
from outlive.stores.halt import Halt, Reason
from outlive.stores.sql import Migration

Section = Literal["holds", "events", "cells", "blobs"]
SECTIONS: tuple[Section, ...] = ("holds", "events", "cells", "blobs")
Row = Sequence[Any]
Key = tuple[Any, ...]

PAGE_ROWS = 500
PAGE_BYTES = 1024 * 1024
FAULTS_MAX = 100
"""Faults of one kind that are named; there may be more."""

_KEYS: dict[Section, int] = {"holds": 2, "events": 2, "cells": 2, "blobs": 1}
_pack = msgspec.msgpack.Encoder().encode


class Facts(Struct, frozen=True):
    """What a store is, at the moment its contents are read."""

    incarnation: str
    version: int
    """No cell has a higher version, and none was ever drawn."""
    clock: int
    shards: tuple[Shard, ...]
    counts: dict[str, int]
    """Rows of each section."""
    blob_bytes: int = 0
    """Bytes of the largest blob."""
    left: tuple[str, ...] = ()
    """Tables in the same file that are not the store's, and are not among its contents."""


class Source(Protocol):
    """Contents as they are at one moment, whoever writes meanwhile."""

    facts: Facts

    def pages(self, section: Section, after: Key | None = None) -> AsyncIterator[list[Row]]:
        """The rows of `section` with a key greater than `after`, in order. Ask for the sections in
        the order of `SECTIONS`."""
        ...

    async def close(self) -> None:
        """Let the contents go on changing."""
        ...


class Kept(Source, Protocol):
    """Contents in a database, which can look deeper than at its rows."""

    def faults(self) -> AsyncIterator[str]:
        """What is wrong in the database itself: its pages, its streams, its marks."""
        ...


class Place(Protocol):
    """A database that holds a store or can hold one, served or not."""

    address: str
    """Without a password."""

    async def pending(self) -> list[Migration]:
        """The migrations its schema lacks: all of them where there is no store yet."""
        ...

    async def grant(self, role: str) -> None:
        """Give `role` what a service needs here. Raises `StoreRefused` where there are no roles."""
        ...

    async def source(self) -> Kept:
        """Its contents at this moment. Raises `StoreRefused`, or `SchemaBehind`, when there are
        none to be read."""
        ...

    async def halt(self) -> Halt | None:
        """Why its store is not served; None also where there is no store."""
        ...

    async def freeze(self, reason: Reason, other: str, token: str) -> None:
        """Take no more writes from anybody: `moving`, and at its end `moved`. Raises `StoreMoved`
        when another move is under way, or this one was given up."""
        ...

    async def thaw(self, token: str) -> None:
        """Take writes again, after the move `token` was given up. Raises `StoreMoved`."""
        ...

    async def prepare(self, facts: Facts, other: str, token: str) -> None:
        """Make an empty store with as many shards as `facts`, halted as being filled, or find the
        one that the same `token` began. Raises `StoreNotEmpty`, `StoreRefused`."""
        ...

    async def reached(self, section: Section) -> Key | None:
        """The last key of `section` that is there."""
        ...

    async def write(self, section: Section, rows: Sequence[Row]) -> None:
        """Add rows, whole or not at all, durable when it returns. Raises `StoreNotEmpty` when the
        fill that was prepared is not under way any more."""
        ...

    async def conclude(self, facts: Facts) -> None:
        """Become what `facts` say: shards, heads, epochs, version counter, clock; all is there."""
        ...

    async def release(self) -> None:
        """May be served from now on."""
        ...

    async def close(self) -> None:
        """End; what was written stays."""
        ...


def key_of(section: Section, row: Row) -> Key:
    """The key that a row has its place by."""
    return tuple(row[: _KEYS[section]])


def size_of(section: Section, row: Row) -> int:
    """About how many bytes a row takes in memory."""
    at = {"events": 6, "cells": 5, "blobs": 2}.get(section)
    return 100 if at is None else 100 + len(row[at])


class Sums(Struct, frozen=True):
    """How many rows there are in each section, and one digest over them."""

    counts: dict[str, int]
    digests: dict[str, str]


class Inspection:
    """Looks at every row of a store once, in order; `found` is what is wrong with them."""

    def __init__(self, facts: Facts) -> None:
        self.found: list[str] = []
        self._facts = facts
        self._ends: dict[int, tuple[int, bytes]] = {row.id: (0, GENESIS) for row in facts.shards}
        self._counts: dict[str, int] = dict.fromkeys(SECTIONS, 0)
        self._hashes = {section: sha256() for section in SECTIONS}
        self._broken: set[int] = set()
        self._last: dict[str, Key] = {}
        self._named: set[str] = set()
        self._blobs: set[str] = set()
        self._epochs = {row.id: row.epoch for row in facts.shards}
        if [row.id for row in facts.shards] != list(range(len(facts.shards))):
            self._fault(f"shards: they are not numbered 0 to {len(facts.shards) - 1}")

    def take(self, section: Section, rows: Iterable[Row]) -> None:
        """Look at the next rows of `section`."""
        digest = self._hashes[section]
        look = getattr(self, f"_look_at_{section}")
        for row in rows:
            self._counts[section] += 1
            key = key_of(section, row)
            if section in self._last and not key > self._last[section]:
                self._fault(f"{section}: {key} stands after {self._last[section]}")
            self._last[section] = key
            if section == "blobs":  # its date is kept, but is no part of what it is
                digest.update(_pack((row[0], len(row[2]))))
                digest.update(row[2])
            else:
                digest.update(_pack(tuple(row)))
            look(row)

    def end(self) -> Sums:
        """Look at what can be seen only now, and give the sums."""
        for row in self._facts.shards:
            seq = self._ends[row.id][0]
            if seq != row.head and row.id not in self._broken:
                self._fault(f"shard {row.id}: its head is {row.head}, its last event is {seq}")
        for name in sorted(self._named - self._blobs):
            self._fault(f"blob {name} is named by a cell, and is not there")
        for section in SECTIONS:
            said = self._facts.counts.get(section, 0)
            if said != self._counts[section]:
                self._fault(f"{section}: {self._counts[section]} were read, and {said} counted")
        digests: dict[str, str] = {
            section: digest.hexdigest() for section, digest in self._hashes.items()
        }
        return Sums(dict(self._counts), digests)

    def _look_at_holds(self, row: Row) -> None:
        if row[1] > self._epochs.get(row[0], -1):
            self._fault(f"shard {row[0]}: epoch {row[1]} in its ledger is above its own")

    def _look_at_events(self, row: Row) -> None:
        shard, seq, stream, n, kind, time, data, chain = row
        if shard not in self._ends:
            if shard not in self._broken:
                self._broken.add(shard)
                self._fault(f"shard {shard}: has events, and the store has no such shard")
            return
        before, previous = self._ends[shard]
        self._ends[shard] = seq, chain
        if shard in self._broken:
            return
        if seq != before + 1:
            self._broken.add(shard)
            self._fault(f"shard {shard}: event {before + 1} is missing")
        elif kind == ERASED and not data:
            return  # trusted: what its value was made from is gone
        elif chain != link(previous, shard, seq, stream, n, kind, time, data):
            self._broken.add(shard)
            self._fault(f"shard {shard}: event {seq} is not what was committed (chain broken)")

    def _look_at_cells(self, row: Row) -> None:
        space, key, version, *_ = row
        if version > self._facts.version:
            self._fault(f"cell {space}/{key}: version {version} was never drawn")
        if space == "blob":  # and no other: what looks like a name elsewhere is what a user wrote
            self._named.add(key)

    def _look_at_blobs(self, row: Row) -> None:
        self._blobs.add(row[0])
        try:
            verified(row[0], row[2])
        except StoreCorrupt as error:
            self._fault(error.detail)

    def _fault(self, text: str) -> None:
        if len(self.found) < FAULTS_MAX:
            self.found.append(text)
