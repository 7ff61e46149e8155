"""Inside the caller's own transaction: what is started or sent there comes with its commit.

    async with engine.begin() as connection:                  # the caller's transaction
        await connection.execute(insert(orders).values(…))
        handle = await app.within(connection).start(fulfil, order)

    before the commit    nobody sees it: GET gives 404
    after it             `queued`; the node that owns its shard claims it, within about a second, or
                         at once after `nudge()`
    rolled back          it never existed

Only cells are written, never a shard's row: no node waits for the caller's transaction, however
long it stays open. The process is durable as the caller's commit is. It begins in the commit that
drops the command to begin it, so exactly once, whoever is killed when.

`key` makes a repeated start or signal count once. The keys of starts given here are compared with
each other, not with those of `Outlive.start` or of HTTP, because a node must never wait for a key
that a caller's open transaction holds. Two such transactions with one key do wait for each other.

Errors of the connection are the driver's own, as from the caller's other statements.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from msgspec import Struct

from outlive import codec, ids
from outlive.errors import (
    NoSuchProcess,
    NotAllowed,
    ProcessGone,
    ProcessTerminal,
)
from outlive.handle import Handle
from outlive.kinds.processes import FINAL, Command
from outlive.kinds.processes.cells import read_head, ref_of
from outlive.kinds.processes.limits import demand_priority
from outlive.kinds.processes.pending import Wish, queued, told
from outlive.kinds.processes.requests import started_by
from outlive.kinds.processes.vocabulary import GONE
from outlive.model import Put, Ref
from outlive.runtime.publications import letter
from outlive.store import AsyncCarrier, Carrier, Sight

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.blocking import BlockingHandle, BlockingOutlive

P = ParamSpec("P")
R = TypeVar("R")
SCOPE = "transaction"
"""What keeps these idempotency keys apart from others."""
_MARK = "within-"
_NOWHERE = Ref("process", "")
"""No cell lies there: only the facts of the store are asked for."""


class Within:
    """Starts and signals that go with a caller's transaction; see `Outlive.within`."""

    def __init__(self, app: Outlive, connection: Any) -> None:
        carrier = _carrier(app, connection)
        if not isinstance(carrier, AsyncCarrier):
            raise NotAllowed(
                f"{type(connection).__name__} is used without await: give it to "
                "`app.blocking().within(…)`. Nothing was written."
            )
        self._app = app
        self._carrier: AsyncCarrier = carrier

    @overload
    async def start(
        self,
        body: Callable[P, Awaitable[R]],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> Handle[R]: ...
    @overload
    async def start(
        self,
        body: Callable[P, R],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> Handle[R]: ...
    async def start(
        self,
        body: Callable[..., Any],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> Handle[Any]:
        """Start a process when the transaction is committed; its id is known at once.

        `key`: a start repeated with the same key and value gives the same process. Raises
        `InvalidInput`, `TooLarge`, `KeyReused`, `ProcessGone` (it is past its retention, and the
        key not yet), `NotAllowed`, or the driver's error; then nothing was written.
        """
        begin = _Start(self._app, body, value, key, priority, tags)
        sight = _checked(self._app, await self._carrier.look(begin.guard))
        if sight.value is None:
            found = await self._carrier.carry(begin.puts(sight))
            sight = Sight(sight.time, sight.shards, sight.incarnation, found)
        id = begin.id_of(sight)
        if sight.value is not None:
            demand_kept(await self._carrier.look(ref_of(id, sight.shards)))
        return Handle(self._app, id)

    async def signal(
        self, id: str, name: str, payload: Any = None, *, key: str | None = None
    ) -> None:
        """Send a signal when the transaction is committed.

        `key`: sent again with the same key it counts once. Raises as `Outlive.signal`,
        `NotAllowed`, or the driver's error. What is only seen when it is delivered (the process has
        ended meanwhile) is not: then the signal is let go.
        """
        tell = _Signal(self._app, id, name, payload, key)
        sight = _checked(self._app, await self._carrier.look(_NOWHERE))
        sight = await self._carrier.look(ref_of(id, sight.shards))
        if puts := tell.puts(sight):
            await self._carrier.carry(puts)

    async def publish(self, event: Any) -> str:
        """Publish an event when the transaction is committed; gives its id. Raises as
        `Outlive.publish`, `NotAllowed`, or the driver's error."""
        sight = _checked(self._app, await self._carrier.look(_NOWHERE))
        id, put = letter(event, sight.shards, sight.time)
        await self._carrier.carry((put,))
        return id


class BlockingWithin:
    """`Within` without `await`; see `BlockingOutlive.within`."""

    def __init__(self, client: BlockingOutlive, connection: Any) -> None:
        carrier = _carrier(client.app, connection)
        if isinstance(carrier, AsyncCarrier):
            raise NotAllowed(
                f"{type(connection).__name__} is asynchronous: use `await app.within(…)`. Nothing "
                "was written."
            )
        self._client = client
        self._carrier: Carrier = carrier

    @overload
    def start(
        self,
        body: Callable[P, Awaitable[R]],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[R]: ...
    @overload
    def start(
        self,
        body: Callable[P, R],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[R]: ...
    def start(
        self,
        body: Callable[..., Any],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[Any]:
        """See `Within.start`."""
        begin = _Start(self._client.app, body, value, key, priority, tags)
        sight = _checked(self._client.app, self._carrier.look(begin.guard))
        if sight.value is None:
            found = self._carrier.carry(begin.puts(sight))
            sight = Sight(sight.time, sight.shards, sight.incarnation, found)
        id = begin.id_of(sight)
        if sight.value is not None:
            demand_kept(self._carrier.look(ref_of(id, sight.shards)))
        return self._client.handle(id)

    def signal(self, id: str, name: str, payload: Any = None, *, key: str | None = None) -> None:
        """See `Within.signal`."""
        tell = _Signal(self._client.app, id, name, payload, key)
        sight = _checked(self._client.app, self._carrier.look(_NOWHERE))
        sight = self._carrier.look(ref_of(id, sight.shards))
        if puts := tell.puts(sight):
            self._carrier.carry(puts)

    def publish(self, event: Any) -> str:
        """See `Within.publish`."""
        sight = _checked(self._client.app, self._carrier.look(_NOWHERE))
        id, put = letter(event, sight.shards, sight.time)
        self._carrier.carry((put,))
        return id


class _Start:
    """What is decided about a start, whatever kind of connection carries it."""

    def __init__(
        self,
        app: Outlive,
        body: Callable[..., Any],
        value: Any,
        key: str | None,
        priority: int,
        tags: Mapping[str, Any] | None,
    ) -> None:
        trace = "" if app._telemetry is None else app._telemetry.here()
        self._made, self._raw, value = app._asked(body, value)
        self._wish = Wish(
            priority=demand_priority(priority),
            trace=trace,
            tags=self._made.tags_of(value, tags),
            given=tags,
        )
        self._id = ids.public_id(self._made.prefix, 1)
        self._request: Put | None = None
        if key is not None:
            self._request = app._request(self._made, self._raw, key, SCOPE, self._id, self._wish)

    @property
    def guard(self) -> Ref:
        return self._request.ref if self._request is not None else _NOWHERE

    def puts(self, sight: Sight) -> tuple[Put, ...]:
        cells = queued(self._made, self._id, self._raw, sight.time, sight.shards, self._wish)
        return cells if self._request is None else (self._request, *cells)

    def id_of(self, sight: Sight) -> str:
        """The process that there is now: this one, or that of an earlier start with the key."""
        if sight.value is None or self._request is None:
            return self._id
        return started_by(sight.value, self._request)


def demand_kept(seen: Sight) -> None:
    """Raise `ProcessGone` when nothing is left of the process that an earlier start with the key
    has made: `seen` is its cell."""
    if seen.value is None or read_head(seen.value).status == GONE:
        raise ProcessGone(
            "The process that was started with this key is past its retention; nothing was written."
        )


class _Signal(Struct):
    """What is decided about a signal."""

    app: Any
    id: str
    name: str
    payload: Any
    key: str | None

    def puts(self, sight: Sight) -> tuple[Put, ...]:
        """The command, when `sight` of the process's cell allows it; nothing when the signal was
        taken before."""
        if sight.value is None:
            raise NoSuchProcess(f"There is no process {self.id[:64]}.")
        head = read_head(sight.value)
        if head.status == GONE:
            raise ProcessGone(f"Process {self.id} ended and is past its retention.")
        if head.status in FINAL and self.key and head.knows(self.key):
            return ()
        if head.status in FINAL:
            raise ProcessTerminal(f"{self.id} has ended: {head.status}. The signal was not kept.")
        raw = self.app._payload(head, self.name, codec.encode(self.payload))
        command = Command("signal", self.id, self.name, raw, self.key or "")
        return (told(command, sight.time, sight.shards, _MARK),)


def _carrier(app: Outlive, connection: Any) -> Carrier | AsyncCarrier:
    """`connection` as something that carries cells. Raises `NotAllowed`."""
    carrier: Carrier | AsyncCarrier = connection
    if not isinstance(connection, (Carrier, AsyncCarrier)):
        from outlive.stores.carriers import carrier_of

        given = app._given if app._given is not None else app.store_address
        carrier = carrier_of(connection, given, app._clock)
    if app._keys is None:
        return carrier
    from outlive.stores.vault import sealed_carrier

    return sealed_carrier(carrier, app._keys)


def _checked(app: Outlive, sight: Sight) -> Sight:
    """What was seen, if it was seen in this application's own store. Raises `NotAllowed`."""
    known = getattr(app._store, "incarnation", sight.incarnation)
    if sight.incarnation != known:
        raise NotAllowed(
            "The connection leads to another store than this application's; nothing was written."
        )
    return sight
