"""`Outlive`: what a service holds. Open a store, declare processes, run, drain, stop.

    app = Outlive("sqlite:///signup.db")

    @app.process("/registrations", version=1)
    async def register(run: Run, form: Registration) -> Account: ...

    service = app.asgi()                   # serve over HTTP; opens and drains with the server
    async with app:                        # or use it without HTTP
        handle = await app.start(register, form)
        account = await handle.result()

Anything that is asked here may be asked of any node on the same store: what this node does not own
is read from the store, and what must be done by the owner is kept in a cell until the owner has
done it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

import msgspec
from msgspec import Raw

from outlive import codec, ids
from outlive.clock import AHEAD_SECONDS_MAX, MICROS, Clock
from outlive.doors import Doors
from outlive.doors.bulk import Bulk
from outlive.doors.caches import Caches
from outlive.doors.callbacks import Callbacks
from outlive.doors.cells import Cells
from outlive.doors.dependencies import Dependencies
from outlive.doors.examining import Examining
from outlive.doors.lines import Count, in_line
from outlive.doors.notices import Notices
from outlive.doors.publishing import Publishing
from outlive.doors.queries import Queries
from outlive.doors.surveying import Surveying
from outlive.doors.transfers import Transfers
from outlive.doors.updates import Updates
from outlive.errors import (
    Conflict,
    Draining,
    Fenced,
    NoSuchProcess,
    NotifyRefused,
    StoreWentBack,
    TooLarge,
)
from outlive.handle import Handle
from outlive.kinds.processes import (
    Begun,
    Definition,
)
from outlive.kinds.processes.callbacks import checked_base
from outlive.kinds.processes.cells import ref_of
from outlive.kinds.processes.definition import input_error
from outlive.kinds.processes.limits import BACKLOG_MAX, Limit, demand_priority
from outlive.kinds.processes.pending import PLAIN, Wish, queued
from outlive.kinds.processes.requests import request_of, started_by
from outlive.kinds.processes.seen import Query
from outlive.kinds.processes.subscriptions import Subscriptions
from outlive.kinds.processes.tags import Derive
from outlive.kinds.processes.updates import Update
from outlive.kinds.processes.webhooks import Webhooks
from outlive.model import Batch, Cell, Put, Ref, Require
from outlive.runtime.telemetry import telemetry_here
from outlive.stores.lines import folder_at

if TYPE_CHECKING:
    from threading import Thread

    from outlive.access import Access
    from outlive.runtime.node import NodeRuntime
    from outlive.store import Store
    from outlive.stores.keys import Keys

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Phase = Literal["new", "starting", "ready", "draining", "stopped"]

DEFAULT_ADDRESS = "sqlite:///.outlive/store.db"
INPUT_BYTES_MAX = 1024 * 1024
SIGNAL_BYTES_MAX = 64 * 1024
RESULT_LOOK_SECONDS = 30.0
"""A wait for a result looks at the store at least this often."""
RETENTION_SECONDS = 30 * 86_400.0
REQUEST_SECONDS = 7 * 86_400.0
LEASE_SECONDS = 10.0
ACTIVE_MAX = 50_000
LEASE_SECONDS_MIN, LEASE_SECONDS_MAX = 1.0, 300.0


class Outlive(
    Callbacks,
    Updates,
    Notices,
    Queries,
    Publishing,
    Transfers,
    Bulk,
    Surveying,
    Examining,
    Dependencies,
    Caches,
    Cells,
    Doors,
):
    """A service's durable state and what runs on it.

    `store`: an address (`sqlite:///relative.db`, `sqlite:////absolute.db`, `memory://`) or an
    open-able store; without it the environment's `OUTLIVE_STORE`, else
    `sqlite:///.outlive/store.db`. `retention_seconds`: how long an ended process is kept (then 410
    for as long, then 404). `request_seconds`: how long an idempotency key is kept, at least 1 day
    is wise; no longer than its process and the tombstone. `lease_seconds` (1 to 300): how long a
    node that is frozen or cut off keeps its shards; one that died on this host loses them at once.
    `encryption`: the keys that payloads are sealed with. `redact`: names of members whose values
    nobody is shown, wherever in a document they are; the processes themselves see them.
    `public_url`: where the outside reaches this service (`https://api.example.org`, with the prefix
    it is mounted under), for the addresses it gives out; without it the environment's
    `OUTLIVE_PUBLIC_URL`. `webhooks`: how the ends of processes are told; without it nobody is.
    `active_max`: processes in the memory of one node (what waits longer than a second is not),
    beyond which a start there is refused (`Overloaded`). `archive`: a folder (or `file:` URL) where
    ended processes are written, unsealed, before they are dropped. `dashboard`: who may see what is
    going on beside this machine, and who may change it. Nothing is opened before `open()`.
    """

    def __init__(
        self,
        store: str | Store | None = None,
        *,
        retention_seconds: float = RETENTION_SECONDS,
        request_seconds: float = REQUEST_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        encryption: Keys | None = None,
        redact: Collection[str] = (),
        public_url: str | None = None,
        webhooks: Webhooks | None = None,
        active_max: int = ACTIVE_MAX,
        archive: str | os.PathLike[str] | None = None,
        dashboard: Access | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._given = store
        self.access = dashboard
        self.webhooks = webhooks
        self.public_url = checked_base(public_url or os.environ.get("OUTLIVE_PUBLIC_URL", ""))
        self._clock = clock or Clock()
        self._keys = encryption
        self._redact = frozenset(redact)
        for name, kept in (("retention", retention_seconds), ("request", request_seconds)):
            if not 0 < kept <= AHEAD_SECONDS_MAX:
                raise ValueError(f"{name}_seconds is {kept:g}; above 0, 100 years at most")
        self._retention_seconds = retention_seconds
        self._request_seconds = request_seconds
        self._archive = None if archive is None else folder_at(os.fspath(archive))
        if not LEASE_SECONDS_MIN <= lease_seconds <= LEASE_SECONDS_MAX:
            limits = f"{LEASE_SECONDS_MIN:g} to {LEASE_SECONDS_MAX:g}"
            raise ValueError(f"lease_seconds is {lease_seconds:g}; it must be {limits}")
        self._lease_seconds = lease_seconds
        if active_max < 1:
            raise ValueError(f"active_max is {active_max}; it must be 1 or more")
        self._active_max = active_max
        self._all: dict[tuple[str, int], Definition] = {}
        self._newest: dict[str, Definition] = {}
        self._bodies: dict[Callable[..., Any], Definition] = {}
        self._queries: dict[tuple[str, str], Query] = {}
        self._query_of: dict[Callable[..., Any], Query] = {}
        self._computing: set[Thread] = set()
        self._subscriptions = Subscriptions()
        self._schemas: list[Callable[[Any], Any]] = []
        self._counts: dict[str, Count] = {}
        self._phase: Phase = "new"
        self._runtime: NodeRuntime | None = None
        self._store: Store | None = None
        self._owns_store = False

    # --- declaring --------------------------------------------------------------------------------

    def process(
        self,
        path: str | None,
        *,
        version: int,
        name: str | None = None,
        prefix: str | None = None,
        status_code: Literal[201, 202] = 202,
        signals: Mapping[str, Any] | None = None,
        rollback_on: tuple[type[Exception], ...] = (Exception,),
        deadline: float | None = None,
        accepts: tuple[int, ...] = (),
        updates: Iterable[Update[Any, Any]] = (),
        callbacks: Mapping[str, Any] | None = None,
        notify: str = "",
        limit: Limit | Sequence[Limit] = (),
        backlog_max: int = BACKLOG_MAX,
        tags: Sequence[str] | Mapping[str, Derive | None] = (),
        retention_seconds: float | None = None,
    ) -> Callable[[F], F]:
        """Declare a function as the body of a type of process.

        `path`: where it is started over HTTP; None: only code starts it. `version`: 1 or more; a
        started process keeps it, so keep the body of an old version declared while such processes
        are under way. `name`: how it is recorded, the function's name when not given. `prefix`: of
        its public ids. `status_code`: the answer to a start, 201 when the process *is* the resource
        at its path, else 202. `signals`: the signals it takes and their types; without it any name
        is taken as plain JSON. `rollback_on`: the errors that roll back (a step that gave up counts
        as what it raised); others leave it `stuck` for an operator. `deadline`: seconds (above 0)
        after its start, by the store's clock, at which it is rolled back if it has not ended.
        `accepts`: older versions whose processes this body goes on with; `run.since(n)` says what
        they get. `updates`: what it can be asked and answers. `callbacks`: the names of its
        callbacks and their types; without it any JSON is taken. `notify`: the address that is told
        of each end, unless a start names another. `limit`: how many go at once or begin in a while
        over the whole store, also several, in the order in which their turn is waited for; a
        process over it is `queued`. `backlog_max`: processes that wait in one line, beyond which a
        start is refused (`Overloaded`, `QuotaExceeded`). `tags`: names it is found by (at most 16),
        each with a function of the input or None. `retention_seconds` (above 0): how long an ended
        one is kept, when not as long as the application says.
        """
        limits = (limit,) if isinstance(limit, Limit) else tuple(limit)

        def declare(body: F) -> F:
            try:
                self._may_notify(notify)
            except NotifyRefused as error:
                raise ValueError(f"notify of {body.__name__}: {error.detail}") from None
            made = Definition(
                body, path, version, name, prefix, status_code, signals, rollback_on, deadline,
                accepts, updates, callbacks, notify, limits, backlog_max,
                tags=tags, retention=retention_seconds,
            )  # fmt: skip
            for each in made.versions:
                if (made.name, each) in self._all:
                    by = f"by {made.label} and by {self._all[made.name, each].label}"
                    raise ValueError(f"{made.name} v{each} is declared twice: {by}")
            for other in self._all.values():
                if path and other.path == path and other.name != made.name:
                    raise ValueError(f"{path} belongs to process {other.name} already")
                if other.name == made.name and other.path != made.path:
                    raise ValueError(f"{made.label} and {other.label} have different paths")
            for each in made.versions:
                self._all[made.name, each] = made
            if version >= max(found for name, found in self._all if name == made.name):
                self._newest[made.name] = made
            self._bodies[body] = made
            return body

        return declare

    def schema(self, function: F) -> F:
        """Declare a function that makes the service's own tables; run as a transaction at each
        opening.

        It gets `tables` as in `run.transact`. Write it so that it may run again (`CREATE TABLE IF
        NOT EXISTS`).
        """
        self._schemas.append(function)
        return function

    @property
    def definitions(self) -> Mapping[str, Definition]:
        """The declared types of processes by name, each in its newest version."""
        return MappingProxyType(self._newest)

    # --- opening and closing ----------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where in its life this application is."""
        return self._phase

    @property
    def node(self) -> str:
        """The identity of this node; empty before it has started."""
        return self._runtime.name if self._runtime is not None else ""

    @property
    def store_address(self) -> str:
        """The address of the store, as given or found."""
        if isinstance(self._given, str) or self._given is None:
            return self._given or os.environ.get("OUTLIVE_STORE") or DEFAULT_ADDRESS
        return f"{type(self._given).__name__}()"

    @property
    def retention_seconds(self) -> float:
        """How long an ended process is kept, where its type does not say."""
        return self._retention_seconds

    @property
    def archive_folder(self) -> str:
        """Where ended processes are archived; empty: nowhere."""
        return "" if self._archive is None else str(self._archive)

    @property
    def sealed(self) -> bool:
        """Whether payloads are encrypted in the store."""
        return self._keys is not None

    @property
    def lost(self) -> StoreWentBack | None:
        """Why this node does nothing more: commits that it was told are durable are missing."""
        return getattr(self._store, "lost", None)

    @property
    def cut_off(self) -> bool:
        """Whether the store has not answered for so long that the lease may be over: no step
        begins here until it has."""
        if self._runtime is None:
            return False
        activations = self._runtime.activations
        return activations.clock.boot() > activations.trusted_until

    async def open(self) -> None:
        """Open the store, take shards, go on with what was under way. Raises `StoreRefused` with
        the remedy."""
        if self._phase not in ("new", "stopped"):
            return
        from outlive.runtime.node import NodeRuntime
        from outlive.runtime.tables import make_tables

        self._phase = "starting"
        try:
            await self.open_client()
            for schema in self._schemas:
                await make_tables(self.transact, schema)
            self._runtime = NodeRuntime(
                self.store, self._clock, self._all, self._retention_seconds, self._lease_seconds,
                self._active_max, self._telemetry, self._archive,
            )  # fmt: skip
            activations = self._runtime.activations
            activations.addresses.base = self.public_url
            activations.notices.webhooks = self.webhooks
            activations.notices.describe = self._describe
            activations.subscriptions = self._subscriptions
            await self._runtime.start()
        except BaseException:
            self._phase = "stopped"
            self._runtime = None
            await self._close_store()
            raise
        self._phase = "ready"

    async def open_client(self) -> None:
        """Open the store only: read, start, signal and cancel, but own no shard and run nothing."""
        self._settle_in()
        if self._store is not None:
            return
        from outlive.stores.vault import vault_of

        if self._given is None or isinstance(self._given, str):
            from outlive.stores.address import store_at

            store, self._owns_store = store_at(self.store_address, self._clock), True
        else:
            store = self._given
        store = vault_of(store, self._keys)
        await store.open()
        self._store = store
        self._telemetry = telemetry_here()
        try:
            await self._open_places()
        except BaseException:
            await self._close_store()
            raise

    async def drain(self, grace_seconds: float = 20.0) -> None:
        """Take nothing new; let steps under way end, at most `grace_seconds`; leave the rest to
        other nodes."""
        if self._runtime is not None and self._phase == "ready":
            self._phase = "draining"
            await self._runtime.drain(grace_seconds)

    async def close(self) -> None:
        """Hand the shards back and close the store. Drains first, briefly, if that was not done."""
        await self.drain(grace_seconds=5.0)
        await self._leave_places()
        if self._runtime is not None:
            runtime, self._runtime = self._runtime, None
            await runtime.stop()
        self._phase = "stopped"
        await self._close_store()

    async def _close_store(self) -> None:
        await self._close_places()
        store, self._store = self._store, None
        if store is not None:
            await store.close()

    async def __aenter__(self) -> Outlive:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def asgi(self, existing_app: Any = None, **options: Any) -> Any:
        """An ASGI application: the declared processes over HTTP; everything else goes to
        `existing_app`.

        The store is opened and drained with the server's life span, and the life span of
        `existing_app` is run too.
        """
        from outlive.web.asgi import create

        return create(self, existing_app, **options)

    # --- starting ---------------------------------------------------------------------------------

    @overload
    async def start(
        self,
        body: Callable[P, Awaitable[R]],
        value: Any = None,
        *,
        key: str | None = None,
        notify: str = "",
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
        notify: str = "",
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> Handle[R]: ...
    async def start(
        self,
        body: Callable[..., Any],
        value: Any = None,
        *,
        key: str | None = None,
        notify: str = "",
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> Handle[Any]:
        """Start a process by its body; durable when this returns.

        `key`: a start repeated with the same key, value and tags gives the same process. `notify`:
        an address that is told of its end by a signed POST. `priority` (0 to 9): of a type with
        limits, what goes first; one more is worth ten minutes of waiting. `tags`: by which it is
        found, of the names that its type declares. Raises `InvalidInput`, `TooLarge`,
        `TagNotDeclared`, `TagInvalid`, `KeyReused`, `NotifyRefused`, `Draining`, `Overloaded`,
        `QuotaExceeded`; then nothing was started.
        """
        made, raw, value = self._asked(body, value)
        wish = Wish(notify, priority, given=tags) if notify or priority or tags else PLAIN
        begun = await self._traced(made, raw, value, key, "python", wish, "")
        return Handle(self, begun.id)

    def _asked(self, body: Callable[..., Any], value: Any) -> tuple[Definition, bytes, Any]:
        """What a start of `body` asks for: its process, and the input as kept and as read."""
        made = self._bodies.get(body)
        if made is None:
            raise TypeError(f"{body!r} is not declared as a process of this application")
        raw = codec.encode(value)
        return made, raw, _read(made, raw)

    async def begin(
        self,
        name: str,
        body: bytes,
        *,
        key: str | None = None,
        scope: str = "",
        notify: str = "",
        priority: int = 0,
        caller: str = "",
    ) -> Begun:
        """Start the newest version of process `name` with JSON from outside.

        `key` is bound to `scope`, the type and the value. `caller`: its trace context. Raises
        `MalformedInput`, `InvalidInput`, `TooLarge`, `KeyReused`, `NotifyRefused`, `Draining`,
        `Overloaded`, `QuotaExceeded`, or what the store raises; then nothing was started.
        """
        made = self._newest[name]
        value = _read(made, body)
        wish = Wish(notify, priority) if notify or priority else PLAIN
        return await self._traced(made, codec.encode(value), value, key, scope, wish, caller)

    async def _traced(
        self, made: Definition, raw: bytes, value: Any, key: str | None, scope: str, wish: Wish,
        caller: str,
    ) -> Begun:  # fmt: skip
        if self._telemetry is None:
            return await self._begin(made, raw, value, key, scope, wish)
        with self._telemetry.starting(made, caller) as trace:
            wish = msgspec.structs.replace(wish, trace=trace)
            return await self._begin(made, raw, value, key, scope, wish)

    async def _begin(
        self,
        made: Definition,
        raw: bytes,
        value: Any,
        key: str | None,
        scope: str,
        wish: Wish = PLAIN,
    ) -> Begun:
        if wish.priority:
            demand_priority(wish.priority)
        if self._phase not in ("ready", "new"):
            raise Draining(f"This instance is {self._phase}; nothing was started.")
        if wish.notify:
            self._may_notify(wish.notify)
        if made.tags or wish.given:
            wish = msgspec.structs.replace(wish, tags=made.tags_of(value, wish.given))
        store = self.store
        owned = self._runtime.activations.leases if self._runtime is not None else {}
        shard = None
        if self._runtime is not None:
            shard = self._runtime.activations.shard_for_start()
            if shard is None:
                shard = await self._runtime.ownership.shard_elsewhere(made.label)
        id = ids.public_id(made.prefix, store.shards, shard)
        request = None
        if key is not None:
            request = self._request(made, raw, key, scope, id, wish)
            found = (await store.read((request.ref,)))[0]
            if found is not None and (begun := await self._replayed(found, request)) is not None:
                return begun
        stream = ids.internal_id(self._wall())
        ref = ref_of(id, store.shards)
        try:
            if made.limits:
                await in_line(self, made, ref, raw, value, request, wish)
                return Begun(id, 0, False)
            if self._runtime is not None and shard in owned:
                try:
                    committed = await self._runtime.activations.start(
                        made, ref, stream, Raw(raw), value, request, wish
                    )
                    return Begun(id, 1, False, committed.time, Raw(raw), wish.tags)
                except Fenced:
                    pass  # the shard was lost this moment: its new owner starts it
            await self._queue(made, ref, raw, request, wish)
        except Conflict:
            if request is None:
                raise
            found = (await store.read((request.ref,)))[0]
            begun = None if found is None else await self._replayed(found, request)
            if begun is None:
                raise
            return begun
        return Begun(id, 0, False)

    def _request(
        self, made: Definition, raw: bytes, key: str, scope: str, id: str, wish: Wish = PLAIN
    ) -> Put:
        kept = self._retention_seconds if made.retention is None else made.retention
        seconds = min(self._request_seconds, 2 * kept)  # no longer than its process and tombstone
        due = self._wall() + round(seconds * MICROS)
        if wish.given:
            raw = codec.encode([Raw(raw), wish.given])
        return request_of(made, raw, key, scope, id, due, wish.notify)

    async def _replayed(self, found: Cell, request: Put) -> Begun | None:
        """The process of an earlier start with the key; None when nothing is left of it, and then
        nothing is left of the key. Raises `ProcessGone` while its tombstone stands."""
        id = started_by(found.value, request)
        try:
            return Begun(id, await self.seq(id), True)
        except NoSuchProcess:
            with suppress(Conflict):
                require = (Require(found.ref, found.version),)
                await self.store.commit(Batch(require=require, drop=(found.ref,)))
            return None

    async def _queue(
        self, made: Definition, ref: Ref, raw: bytes, request: Put | None, wish: Wish
    ) -> None:
        """Start a process in a shard of another node: a cell that its owner finds, at once or after
        a take-over."""
        store = self.store
        pair = queued(made, ref.key, raw, await store.now(), store.shards, wish)
        puts, requires = [*pair], [Require(ref, 0)]
        if request is not None:
            puts.append(request)
            requires.append(Require(request.ref, 0))
        await self.store.commit(Batch(require=tuple(requires), put=tuple(puts)))


def _read(made: Definition, body: bytes) -> Any:
    """The input in `body`. Raises `TooLarge`, `MalformedInput` or `InvalidInput`."""
    if len(body) > INPUT_BYTES_MAX:
        raise TooLarge(f"The input has {len(body)} bytes; at most {INPUT_BYTES_MAX} are taken.")
    try:
        return made.input_type.read(body)
    except ValueError as error:
        raise input_error(body, error) from None
