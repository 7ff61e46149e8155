"""The store: what each verb promises, and what it does not.

`KeyedCells` keeps cells by their key, `CellStore` looks through them too. `Store` keeps cells, the
journal, shards and blobs, and is what a service opens. The ways of keeping these promises lie in
`stores/`; `stores/memory.py` is the specification in its shortest form, and
`outlive.testing.conformance` is the suite that every one of them passes.

Laws, kept by every store
    fence       a batch with a lease is checked against the shard's row by a lock taken in the same
                transaction.
    dense       events of a shard are numbered 1, 2, 3 … in commit order; `tail` never skips and
                never reorders. An erased event keeps its place.
    clock       expiry is decided by the store's clock, which never goes back.
    version     never reused, not even by a cell that was dropped and made again.
    unknown     a commit whose answer was lost is looked up; only if that fails too is
                `OutcomeUnknown` raised.

Not promised: an order between batches of different shards, fairness between keys, delivery of a
`changed` hint, or that a blob nobody names is kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from outlive.errors import OutliveError
from outlive.model import Batch, Cell, Committed, Event, Hold, Lease, Put, Ref, Shard, Storage

LACKS = ("batches", "claim", "scan", "select")
"""What a store may not promise: batches of several cells, and the verbs that look through a space
(`next_due` goes with `claim`)."""
GROUP_BATCHES_MAX = 512
"""Batches in one group commit."""
CLAIM_CELLS_MAX = 1000
"""Cells handed out by one claim."""
ERASE_STREAMS_MAX = 1000
"""Streams emptied by one call."""
VALUE_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of one cell's value or one event's data; larger things are blobs."""


MANNERS = (
    "tables",
    "asyncpg.Connection",
    "sqlalchemy.AsyncSession",
    "sqlalchemy.AsyncConnection",
    "psycopg.Connection",
    "sqlalchemy.Session",
)
"""What a function in a transaction may ask to be given; `tables` is the store's own door."""


class Finding(Struct, frozen=True):
    """One thing a store looked at in itself: how it is, and what to do if it is not well."""

    name: str
    level: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


class Sight(Struct, frozen=True, gc=False):
    """What a transaction sees of the store: its clock, its shape, and the value of one cell."""

    time: int
    shards: int
    incarnation: str
    value: bytes | None


class Carrier(ABC):
    """A transaction that is open, and not the store's to end: it can take new cells along.

    What `transact` hands out is one. The cells are there when it is committed, and never were when
    it is not. It holds no shard, and no cell that a node would wait for.
    """

    @abstractmethod
    def look(self, ref: Ref) -> Sight:
        """The store's clock and shape, and what the cell at `ref` says, seen from inside."""

    @abstractmethod
    def carry(self, puts: Sequence[Put]) -> bytes | None:
        """Make the cells of `puts`, which are new.

        When the first of them is there already, writes nothing and gives its value. Waits for
        another transaction that is just making the same cell.
        """


class AsyncCarrier(ABC):
    """The same, to be awaited."""

    @abstractmethod
    async def look(self, ref: Ref) -> Sight:
        """See `Carrier.look`."""

    @abstractmethod
    async def carry(self, puts: Sequence[Put]) -> bytes | None:
        """See `Carrier.carry`."""


class KeyedCells(Protocol):
    """Keeps cells that are found by their key alone: the least that a store of cells does.

    A store that is no more than this has none of `claim`, `next_due`, `scan` and `select`, and says
    in `lacks` what else it does not promise.
    """

    keeps: tuple[Storage, ...]
    """The classes of storage it accepts; a batch of another one is refused (`Refused`)."""
    lacks: Mapping[str, str]
    """What it does not promise, and why: some of `LACKS`."""

    async def open(self) -> None:
        """Check the place and start. Raises `StoreRefused` with the remedy, `StoreUnavailable`."""
        ...

    async def now(self) -> int:
        """The store's clock: microseconds since 1970 UTC. It never goes back, also over a
        restart."""
        ...

    async def commit(self, batch: Batch) -> Committed:
        """Write `batch` whole, or raise.

        Raises `Conflict`, `Fenced`, `StreamConflict` or `TooLarge` (nothing written),
        `StoreUnavailable` (nothing written), `OutcomeUnknown`. When it returns, the batch is as
        durable as its storage class says.
        """
        ...

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        """Write up to `GROUP_BATCHES_MAX` batches, in order, with one sync; each is refused alone.

        Gives for each batch what `commit` would return or raise. Each batch sees the ones before
        it. Raises only what concerns the group as a whole (`StoreUnavailable`, `OutcomeUnknown`):
        then none of them was written, or the outcome of all is unknown.
        """
        ...

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        """The latest committed cells, all of one moment, in the order asked; None for an absent
        one."""
        ...

    async def close(self) -> None:
        """End in order. Everything acknowledged stays; calls after it raise `StoreUnavailable`."""
        ...


class CellStore(KeyedCells, Protocol):
    """Keeps cells: values with a version and a deadline."""

    async def claim(self, spaces: Sequence[str], limit: int, hold_seconds: float) -> list[Cell]:
        """Hand out cells of `spaces` whose `due` has passed, moving `due` to now + `hold_seconds`
        and `version` on.

        No cell is handed to two callers within the hold. The new version is the fencing token:
        finish with `Require(ref, version)`. At most `limit` ≤ `CLAIM_CELLS_MAX`, the longest
        overdue first; durable. When `OutcomeUnknown` is raised, cells may have been claimed by
        nobody: they come again after their hold. Not promised: fairness between keys, or any order
        between two claims.
        """
        ...

    async def next_due(self, spaces: Sequence[str]) -> int | None:
        """The earliest `due` in `spaces`, passed or not; None when nothing is due ever."""
        ...

    async def scan(self, space: str, after: str = "", limit: int = 1000) -> list[Cell]:
        """Cells of `space` with a key greater than `after`, by key."""
        ...

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
        """Cells of `spaces` with a mark `mark` and a value in [`low`, `high`], with that value.

        Ordered by (value, space, key) ascending, descending with `newest`. For the next page narrow
        the range. Marks of one name are kept together whatever their space: give a kind's marks its
        own names.
        """
        ...

    async def changed(self, seen: int, timeout_seconds: float) -> int:
        """Wait until something was committed by anybody since `seen`, or the time is up; gives the
        new count.

        A hint: it may come late (some milliseconds from another process, half a second when it had
        to be made up for), may come for nothing, and is never the only thing a wait stands on.
        Start with `seen = -1` to get the count at once.
        """
        ...


class Blobs(Protocol):
    """Bytes too large for a cell or an event, under names of our own making."""

    async def put(self, data: bytes) -> str:
        """Keep `data`; its name comes back when it is durable. It is swept again unless a commit
        names it in time."""
        ...

    async def get(self, name: str) -> bytes:
        """The bytes, verified against their digest. Raises `KeyError` when there are none of that
        name."""
        ...

    async def drop(self, name: str) -> None:
        """Forget the bytes; no error when they are gone already."""
        ...

    async def sweep(
        self, kept: Callable[[str], Awaitable[bool]] | set[str], older_than_seconds: float
    ) -> int:
        """Remove what is older than that and not `kept`; gives how many. Choose an age far above
        the longest time between a `put` and the commit that names it."""
        ...


class Store(CellStore, Protocol):
    """Keeps cells, the journal and who may append to it."""

    shards: int
    """How many shards the journal has: fixed when the store is made."""
    blobs: Blobs

    async def refresh(self) -> bool:
        """Make sure that the next read does not come from a server that another has replaced.

        Gives whether there may be one; then what was read before may be old, and is read again by
        whoever is about to say that something is not there. Raises `StoreUnavailable` when nobody
        leads. A store that is one file, or one server, gives False at once.
        """
        ...

    async def open(self) -> None:
        """Check the place, bring the schema up to date, start. Raises `StoreRefused` with the
        remedy."""
        ...

    async def transact(
        self, work: Callable[[Any], Batch], *, limit_seconds: float = 5.0
    ) -> Committed:
        """Run `work(connection)` and commit the batch it returns in the same transaction as what it
        did.

        `work` is short, synchronous, and touches only the caller's own tables; what it is given is
        a `Carrier` too, which adds cells to that batch. An attribute `manner` of `work` (one of
        `MANNERS`) asks to be given something else, where the store has it. When it raises, or
        runs past `limit_seconds`, nothing is written and the error is raised here. It runs in a
        transaction of its own, never inside a group commit.
        """
        ...

    async def erase(self, streams: Sequence[str], batch: Batch) -> Committed:
        """Commit `batch`, and in the same transaction empty every event of `streams`.

        Their data goes and their kind becomes `ERASED`; place, `n`, time and chain value stay, so
        the shard stays dense and the chain of what comes later is what it was. An erased event is
        trusted by the chain value it has. Raises as `commit`, and nothing was erased then; at most
        `ERASE_STREAMS_MAX` streams. Done again it does no harm. Not promised: that the disk has
        nothing of it left, or that a backup made before forgets it.
        """
        ...

    async def events(self, stream: str, after: int = -1, limit: int = 100_000) -> list[Event]:
        """The events of a stream with `n` greater than `after`, in order."""
        ...

    async def histories(
        self, streams: Sequence[str], limit: int = 100_000
    ) -> dict[str, list[Event]]:
        """All events of each of `streams`, in order; an empty list where there are none.

        What is given is of one moment: of a batch that appends to several of them, all or nothing.
        Gives a stream whole or leaves it out: the first one whose events would make more than
        `limit`, and all behind it. Ask for those by `events`.
        """
        ...

    async def lengths(self, streams: Sequence[str]) -> dict[str, int]:
        """How many events each of `streams` has; those with none are left out."""
        ...

    async def tail(self, shard: int, after: int, limit: int = 1000) -> list[Event]:
        """The events of a shard with `seq` greater than `after`: dense and in order. Raises nothing
        at the end."""
        ...

    async def owners(self) -> list[Shard]:
        """Every shard and who owns it, as committed."""
        ...

    async def take(self, shard: int, epoch: int, owner: str) -> Lease:
        """Become the owner of `shard` if it still is at `epoch`; the new epoch is higher. Raises
        `Fenced` if not.

        Ordered against the last owner's commits by the shard's row: what is read after this
        returned is all that the last owner will ever have written.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Hand a shard back in order: free at once for anybody, and not counted as a crash. No
        error when lost."""
        ...

    async def announce(self, node: str, told: Callable[[bool], None] | None = None) -> None:
        """Give a sign of life for `node` that ends with this process, where the store has such a
        thing.

        `told(False)` is called, on the event loop, when the sign ended while the process lives, and
        `told(True)` when it is given again. Announcing again proves that it is given. Raises
        `StoreUnavailable` when it is not.
        """
        ...

    async def departed(self, nodes: Sequence[str]) -> set[str]:
        """Those of `nodes` that are known to be dead. A hint: may be empty; the epoch says who may
        write."""
        ...

    async def ledger(self, shard: int | None = None, limit: int = 1000) -> list[Hold]:
        """Who held which shard at which epoch from which position, newest first."""
        ...

    async def doctor(self) -> list[Finding]:
        """Examine the store itself: engine, place, schema, integrity, journal, owners, clock.

        Reads only, and stops nobody. Says in words what "durable" means here. A `fail` means that
        the store must not be relied on as it is; a `warn`, that somebody should look.
        """
        ...
