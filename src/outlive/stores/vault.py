"""A store with two things before its door: large payloads go to blobs, and all may be sealed.

    event's data   JSON             as it is
                   `@` and a name   larger than INLINE_BYTES_MAX: it is the blob of that name
                   `~` …            sealed (keys.py); a blob is sealed before it is one

What comes here is JSON, which begins neither so nor so. Nobody above knows: what is read is whole
and open again. The blob is durable before the commit that names it, and that commit makes a cell
`blob/<name>`, which is how a sweep tells what is kept from what a death left behind. Without keys
every verb but those that carry events is the store's own.

A step's result that is too large for a row is kept, never refused: the step has happened.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from outlive.errors import Conflict, KeysMissing, OutliveError, StoreCorrupt, TooLarge
from outlive.model import ABSENT, ERASED, Append, Batch, Cell, Committed, Event, Put, Ref, Require
from outlive.store import AsyncCarrier, Carrier, Sight, Store
from outlive.stores.keys import Keys, is_sealed

INLINE_BYTES_MAX = 256 * 1024
"""Bytes of an event's data that stand in its row; more go to a blob."""
BLOBS = "blob"
"""The space of the names of blobs that are kept; a cell's value is the stream that needs it."""
OF_STREAM = "blob.stream"
"""The mark by which the blobs of one stream are found."""
BLOBS_MAX = 1_000_000
OPEN_SPACES = frozenset(("node", BLOBS, "vault"))
"""What is never sealed: who serves the store is read by those who hold no key."""
_NAMED = b"@"
_KEYS = Ref("vault", "keys")
_read_checks = msgspec.json.Decoder(dict[str, str]).decode


class Vault:
    """`store` with these doors; every verb that is not named here is its own.

    `keys`: seals every payload, or None. Use `vault_of`.
    """

    def __init__(self, store: Store, keys: Keys | None) -> None:
        self._store = store
        self._keys = keys
        self._seals = keys if keys is not None and keys.sealing else None
        if keys is None:
            self.read, self.scan = store.read, store.scan  # type: ignore[method-assign]
            self.select, self.claim = store.select, store.claim  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def open(self) -> None:
        """Open the store. Raises `KeysMissing` when it holds what cannot be opened here."""
        await self._store.open()
        self.shards = self._store.shards  # asked at each start, and never another while it is open
        try:
            await self._agree()
        except BaseException:
            await self._store.close()
            raise

    async def _agree(self) -> None:
        """Every key that the store was written with is here, and is the one of that name."""
        while True:
            cell = (await self._store.read((_KEYS,)))[0]
            known = {} if cell is None else _read_checks(cell.value)
            ours = {} if self._keys is None else {n: self._keys.check(n) for n in self._keys.names}
            missing = [name for name, check in known.items() if ours.get(name) != check]
            if missing:
                raise KeysMissing(
                    f"The store was written with the keys {', '.join(sorted(missing))}, which are "
                    "not given here, or are others of that name. It was not touched."
                )
            if self._seals is None or self._seals.sealing in known:
                return
            known[self._seals.sealing] = ours[self._seals.sealing]
            put = Put(_KEYS, msgspec.json.encode(known))
            require = Require(_KEYS, ABSENT if cell is None else cell.version)
            try:
                await self._store.commit(Batch(require=(require,), put=(put,)))
                return
            except Conflict:
                continue  # another node said so at the same time

    # --- writing ----------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> Committed:
        return await self._store.commit(await self._kept(batch))

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        if self._seals is None and not _has_large(batches):
            return await self._store.commit_group(batches)
        kept: list[Batch | TooLarge] = []
        for batch in batches:
            try:
                kept.append(await self._kept(batch))
            except TooLarge as error:
                kept.append(error)
        results = iter(
            await self._store.commit_group([one for one in kept if isinstance(one, Batch)])
        )
        return [next(results) if isinstance(one, Batch) else one for one in kept]

    async def transact(
        self, work: Callable[[Any], Batch], *, limit_seconds: float = 5.0
    ) -> Committed:
        """What `work` records is sealed, and is no blob: nothing is awaited in a transaction."""
        if self._seals is None:
            return await self._store.transact(work, limit_seconds=limit_seconds)
        sealed: Any
        if inspect.iscoroutinefunction(work):

            async def sealed(given: Any) -> Batch:
                return self._sealed(await cast("Any", work)(given))
        else:

            def sealed(given: Any) -> Batch:
                return self._sealed(work(given))

        if (manner := getattr(work, "manner", None)) is not None:
            sealed.manner = manner
        return await self._store.transact(sealed, limit_seconds=limit_seconds)

    def _sealed(self, batch: Batch) -> Batch:
        keys = self._seals
        if keys is None:
            return batch
        append = tuple(
            replace(one, data=keys.seal(_place_of(one), one.data)) for one in batch.append
        )
        return replace(batch, put=tuple(map(self.sealed_put, batch.put)), append=append)

    def sealed_put(self, put: Put) -> Put:
        """`put` as it is written into the store."""
        if self._seals is None or put.ref.space in OPEN_SPACES:
            return put
        return replace(put, value=self._seals.seal(_place_of_cell(put.ref), put.value))

    async def _kept(self, batch: Batch) -> Batch:
        """`batch` sealed, with its large events in blobs that are durable."""
        batch = self._sealed(batch)
        if not _has_large((batch,)):
            return batch
        append, put = list(batch.append), list(batch.put)
        for at, one in enumerate(append):
            if len(one.data) > INLINE_BYTES_MAX:
                name = await self._store.blobs.put(one.data)
                append[at] = replace(one, data=_NAMED + name.encode())
                marks = ((OF_STREAM, one.stream),)
                put.append(Put(Ref(BLOBS, name), one.stream.encode(), None, marks))
        return replace(batch, append=tuple(append), put=tuple(put))

    async def erase(self, streams: Sequence[str], batch: Batch) -> Committed:
        """See `Store.erase`; the blobs of what is erased go with it. A death behind the commit
        leaves them to the sweep of what nobody names."""
        names: list[str] = []
        if await self._store.scan(BLOBS, limit=1):  # mostly there are none, of any stream
            names = [name for stream in streams for name in await self._blobs_of(stream)]
        kept = await self._kept(batch)
        drop = (*kept.drop, *(Ref(BLOBS, name) for name in names))
        done = await self._store.erase(streams, replace(kept, drop=drop))
        for name in names:
            await self._store.blobs.drop(name)
        return done

    async def _blobs_of(self, stream: str) -> list[str]:
        found = await self._store.select((BLOBS,), OF_STREAM, stream, stream, BLOBS_MAX)
        return [cell.key for _, cell in found]

    # --- reading ----------------------------------------------------------------------------------

    async def events(self, stream: str, after: int = -1, limit: int = 100_000) -> list[Event]:
        return await self._whole(await self._store.events(stream, after, limit))

    async def histories(
        self, streams: Sequence[str], limit: int = 100_000
    ) -> dict[str, list[Event]]:
        found = await self._store.histories(streams, limit)
        for events in found.values():
            await self._whole(events)
        return found

    async def tail(self, shard: int, after: int, limit: int = 1000) -> list[Event]:
        return await self._whole(await self._store.tail(shard, after, limit))

    async def _whole(self, events: list[Event]) -> list[Event]:
        for at, event in enumerate(events):
            data = event.data
            if data[:1] == _NAMED:
                found = await self._blob(event)
                if found is None:
                    events[at] = replace(event, kind=ERASED, data=b"")
                    continue
                data = found
            if is_sealed(data):
                data = self._opened(_place_of(event), data)
            if data is not event.data:
                events[at] = replace(event, data=data)
        return events

    async def _blob(self, event: Event) -> bytes | None:
        """The blob that `event` names; None when both were erased since the event was read."""
        name = event.data[1:].decode()
        try:
            return await self._store.blobs.get(name)
        except KeyError:
            again = await self._store.events(event.stream, event.n - 1, 1)
            if again and again[0].kind == ERASED:
                return None
            raise StoreCorrupt(
                f"event {event.n} of a stream names the blob {name}, which is not there"
            ) from None

    def _opened(self, place: bytes, data: bytes) -> bytes:
        if self._keys is None:
            raise KeysMissing("The store holds sealed payloads, and no keys are given here.")
        return self._keys.open(place, data)

    def opened_cell(self, cell: Cell) -> Cell:
        """`cell` as it was before it was sealed."""
        if not is_sealed(cell.value):
            return cell
        return replace(cell, value=self._opened(_place_of_cell(cell.ref), cell.value))

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        found = await self._store.read(refs)
        return [None if cell is None else self.opened_cell(cell) for cell in found]

    async def scan(self, space: str, after: str = "", limit: int = 1000) -> list[Cell]:
        return [self.opened_cell(cell) for cell in await self._store.scan(space, after, limit)]

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
        found = await self._store.select(spaces, mark, low, high, limit, newest=newest)
        return [(value, self.opened_cell(cell)) for value, cell in found]

    async def claim(self, spaces: Sequence[str], limit: int, hold_seconds: float) -> list[Cell]:
        return [
            self.opened_cell(cell) for cell in await self._store.claim(spaces, limit, hold_seconds)
        ]


class SealedCarrier(Carrier):
    """A transaction that carries cells, sealed on the way."""

    def __init__(self, carrier: Carrier, vault: Vault) -> None:
        self._carrier, self._vault = carrier, vault

    def look(self, ref: Ref) -> Sight:
        return _seen(self._vault, ref, self._carrier.look(ref))

    def carry(self, puts: Sequence[Put]) -> bytes | None:
        found = self._carrier.carry([self._vault.sealed_put(put) for put in puts])
        return None if found is None else _value(self._vault, puts[0].ref, found)


class AsyncSealedCarrier(AsyncCarrier):
    """The same, to be awaited."""

    def __init__(self, carrier: AsyncCarrier, vault: Vault) -> None:
        self._carrier, self._vault = carrier, vault

    async def look(self, ref: Ref) -> Sight:
        return _seen(self._vault, ref, await self._carrier.look(ref))

    async def carry(self, puts: Sequence[Put]) -> bytes | None:
        found = await self._carrier.carry([self._vault.sealed_put(put) for put in puts])
        return None if found is None else _value(self._vault, puts[0].ref, found)


def sealed_carrier(carrier: Carrier | AsyncCarrier, keys: Keys) -> Carrier | AsyncCarrier:
    """`carrier`, sealing what it carries."""
    vault = Vault(cast("Store", None), keys)
    made = SealedCarrier if isinstance(carrier, Carrier) else AsyncSealedCarrier
    return made(carrier, vault)  # type: ignore[arg-type]


def vault_of(store: Store, keys: Keys | None) -> Store:
    """`store` behind these doors."""
    return cast("Store", Vault(store, keys))


def _seen(vault: Vault, ref: Ref, sight: Sight) -> Sight:
    if sight.value is None:
        return sight
    return replace(sight, value=_value(vault, ref, sight.value))


def _value(vault: Vault, ref: Ref, value: bytes) -> bytes:
    return vault.opened_cell(Cell(ref.space, ref.key, value, 1)).value


def _has_large(batches: Sequence[Batch]) -> bool:
    for batch in batches:  # loops, because a generator costs more, and this is asked for each
        for one in batch.append:
            if len(one.data) > INLINE_BYTES_MAX:
                return True
    return False


def _place_of(event: Append | Event) -> bytes:
    return f"event\0{event.stream}\0{event.n}\0{event.kind}".encode()


def _place_of_cell(ref: Ref) -> bytes:
    return f"cell\0{ref.space}\0{ref.key}".encode()
