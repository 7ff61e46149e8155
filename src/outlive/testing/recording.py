"""A client of a store whose every call is written into a history, to be judged afterwards.

What the store refused is a failure, and so is what it said was not written; `OutcomeUnknown` is
unknown; any other error leaves the operation unknown and is raised on. Cells are judged by
`linearize.Cells`, appends and reads of streams by `appends.anomalies`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from outlive.clock import MICROS
from outlive.errors import Conflict, OutcomeUnknown, Refused, StoreUnavailable
from outlive.model import Append, Batch, Lease, Put, Ref, Require
from outlive.store import CellStore, Store
from outlive.testing.appends import TRANSACTION
from outlive.testing.history import Call, History

NOT_APPLIED = (Refused, StoreUnavailable)
"""What a store says when nothing was written."""


class Client:
    """One client, which does one thing at a time; `keys` are those of the cells it uses."""

    def __init__(
        self, store: CellStore, history: History, process: str, space: str, keys: Sequence[str] = ()
    ) -> None:
        self._store = store
        self._history = history
        self.process = process
        self.space = space
        self.keys = keys

    async def read(self, key: str) -> int:
        """Read a cell; gives its version, 0 when it is absent."""
        call = self._history.invoke(self.process, key, "read")
        try:
            (cell,) = await self._store.read([Ref(self.space, key)])
        except StoreUnavailable:
            call.fail()
            return 0
        if cell is None:
            call.ok("absent")
            return 0
        call.ok("cell", cell.value.decode(), cell.version, cell.due)
        return cell.version

    async def put(
        self, key: str, value: str, version: int | None = None, due: int | None = None
    ) -> int:
        """Write a cell, at `version` if one is given (0: it must be absent); gives the version it
        has now, 0 when it was not written or nobody knows."""
        ref = Ref(self.space, key)
        put = Put(ref, value.encode(), due)
        batch = Batch(require=_required(ref, version), put=(put,))
        call = self._history.invoke(self.process, key, "put", value, due, version)
        versions = await self._commit(call, batch)
        return versions[0] if versions else 0

    async def drop(self, key: str, version: int | None = None) -> None:
        """Drop a cell, at `version` if one is given."""
        ref = Ref(self.space, key)
        batch = Batch(require=_required(ref, version), drop=(ref,))
        await self._commit(self._history.invoke(self.process, key, "drop", version), batch)

    async def claim(self, limit: int, hold_seconds: float) -> dict[str, int]:
        """Claim cells that are due; gives the version of each."""
        hold = round(hold_seconds * MICROS)
        calls = {key: self._history.invoke(self.process, key, "claim", hold) for key in self.keys}
        try:
            cells = await self._store.claim([self.space], limit, hold_seconds)
        except NOT_APPLIED:
            for each in calls.values():
                each.fail()
            return {}
        except OutcomeUnknown:
            for each in calls.values():
                each.unknown()
            return {}
        for cell in cells:
            calls.pop(cell.key).ok("cell", cell.value.decode(), cell.version, cell.due)
        for each in calls.values():
            each.fail()
        return {cell.key: cell.version for cell in cells}

    async def _commit(self, call: Call, batch: Batch) -> tuple[int, ...] | None:
        try:
            committed = await self._store.commit(batch)
        except Conflict as conflict:
            found = conflict.facts.get("found")
            call.fail(*(() if found is None else (found,)))
        except NOT_APPLIED:
            call.fail()
        except OutcomeUnknown:
            call.unknown()
        else:
            call.ok(*committed.versions)
            return committed.versions
        return None


class Scribe:
    """One client of the journal, which appends to and reads streams of one shard."""

    def __init__(self, store: Store, history: History, process: str) -> None:
        self._store = store
        self._history = history
        self.process = process

    async def append(self, lease: Lease, elements: Mapping[str, str], at: Mapping[str, int]) -> str:
        """Append one element to each stream, as its `at`-th; gives what became of it."""
        added = tuple(elements.items())
        call = self._history.invoke(self.process, "", TRANSACTION, added, ())
        appends = tuple(
            Append(stream, at[stream], "noted", element.encode()) for stream, element in added
        )
        try:
            await self._store.commit(Batch(lease=lease, append=appends))
        except NOT_APPLIED:
            call.fail()
            return "fail"
        except OutcomeUnknown:
            call.unknown()
            return "unknown"
        call.ok()
        return "ok"

    async def read(self, streams: Sequence[str]) -> dict[str, int]:
        """Read streams, all of one moment; gives how long each is."""
        call = self._history.invoke(self.process, "", TRANSACTION, (), tuple(streams))
        try:
            found = await self._store.histories(streams)
        except StoreUnavailable:
            call.fail()
            return {}
        call.ok(*((s, tuple(event.data.decode() for event in found[s])) for s in streams))
        return {stream: len(events) for stream, events in found.items()}


def _required(ref: Ref, version: int | None) -> tuple[Require, ...]:
    return () if version is None else (Require(ref, version),)
