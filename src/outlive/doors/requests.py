"""`app.once(…)` and `app.requests(…)`: one effect and one answer for each idempotency key.

    async with app.once(f"orders/{customer}", key, form) as claim:
        if not claim.replayed:
            claim.finish(await ship(form))
    return claim.value                              the same for each repetition

    async with app.once(f"orders/{customer}", key, form, mode="transactional") as claim:
        await claim.transact(insert_order, form)    the effect and its record in one commit
    return claim.value

Over HTTP the same stands in front of whole routes: `outlive.web.requests`.

At-most-once: the key is taken before the effect and its answer recorded after it. A death in
between, or an error, leaves an *unknown* outcome, which is never carried out again by itself: an
operator looks (`unknown`) and resolves it (`resolve`). While the owner lives its lease is renewed;
when it was frozen for longer, its answer is refused, and the record tells the truth.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec.structs import replace

from outlive import codec, ids
from outlive.clock import MICROS, Clock
from outlive.doors import replies
from outlive.doors.grounds import Ground, declare
from outlive.doors.heartbeats import Heartbeats
from outlive.doors.replies import Faster, answer_of, demand_first, demand_same, told
from outlive.doors.within import _carrier, _checked
from outlive.errors import (
    ClaimLost,
    NotAllowed,
    NotReplayable,
    OutcomeUnknown,
    OutliveError,
    RequestRunning,
    RequestUnknown,
    StoreUnavailable,
)
from outlive.ids import full_jitter
from outlive.kinds.requests.decisions import (
    LEASE_SECONDS,
    ONCE,
    RETENTION_SECONDS,
    RETENTION_SECONDS_MIN,
    UNKNOWN_MARK,
    WHO_MARK,
    Answer,
    Claim,
    Command,
    Complete,
    Doubt,
    Expire,
    Look,
    Mode,
    Place,
    Record,
    Release,
    Renew,
    Reply,
    RequestKind,
    Resolve,
    done_put,
    read_record,
    ref_of,
)
from outlive.kinds.requests.fingerprints import NEWEST
from outlive.model import Storage
from outlive.store import AsyncCarrier, Carrier

if TYPE_CHECKING:
    from outlive.app import Outlive

log = logging.getLogger("outlive")

TOKEN_BITS = 120
COMPLETE_SECONDS = 10.0
"""How long a record is tried while the store is out of reach, before its outcome is unknown."""
LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 0.02, 0.5
PAGE_MAX = 1000
CLAIM_TRIES_MAX = 5


class Requests:
    """The idempotency keys of a service, in a store of cells.

    `place`: an `Outlive`, or an open store of cells (then without `transactional`).
    `lease_seconds` (1 or more): how long the outcome of an owner that died stays open; renewed at a
    third of it, or before. `retention_seconds` (at least a day): how long an answer is given again;
    choose it longer than the longest retry of any client, and publish it. `storage`: what a record
    is worth: one that is lost lets its request happen again, so below `durable` only for what may.
    """

    def __init__(
        self,
        place: Any,
        *,
        lease_seconds: float = LEASE_SECONDS,
        retention_seconds: float = RETENTION_SECONDS,
        storage: Storage = "durable",
    ) -> None:
        if lease_seconds < 1:
            raise ValueError("lease_seconds is 1 or more")
        if retention_seconds < RETENTION_SECONDS_MIN:
            raise ValueError(
                f"retention_seconds is at least {RETENTION_SECONDS_MIN:g}: a day, and longer than "
                "the longest retry of any client"
            )
        self.kind = RequestKind(storage)
        self.counts: Counter[str] = Counter()
        """How often what was said of a key: `claimed`, `replay`, `running`, `reused`, `unknown`,
        `newer`."""
        self.lease_seconds = lease_seconds
        self.retention_seconds = retention_seconds
        self.place = place
        self._ground = Ground(place, self.kind)
        declare(place, "requests", self)
        self._lease = round(lease_seconds * MICROS)
        self._running: dict[str, asyncio.Event | None] = {}
        """What is carried out here, and what wakes those who wait for it, if anybody does."""
        self._hearts = Heartbeats(lambda *later: self.call_later(*later), lease_seconds / 3)
        self._behind: set[asyncio.Task[None]] = set()
        self._forgets: bool | None = None
        """Whether the store is one that may come back empty; None until it was asked."""

    def once(
        self,
        place: Place,
        fingerprints: Mapping[str, str],
        *,
        mode: Mode = "at-most-once",
        wait_seconds: float = 0.0,
        retention_seconds: float | None = None,
    ) -> Once:
        """A block that is carried out once for the key of `place`; see `Outlive.once`."""
        kept = self.retention_seconds if retention_seconds is None else retention_seconds
        return Once(self, place, fingerprints, mode, wait_seconds, kept)

    def asgi(self, existing_app: Any, *rules: Any, **options: Any) -> Any:
        """`existing_app` with idempotency keys on the routes of `rules` (`Rule`); see
        `outlive.web.requests`, also for `options`."""
        from outlive.web.requests import IdempotencyMiddleware

        return IdempotencyMiddleware(existing_app, self, rules, **options)

    # --- operators --------------------------------------------------------------------------------

    async def look(self, place: Place | str) -> Record:
        """What is known about a key (or the name of its cell). Raises `NoSuchRequest`."""
        name = place if isinstance(place, str) else place.name
        return replies.demand_there(await self.ask(Look(name)), name)

    async def unknown(self, limit: int = 100) -> list[Record]:
        """Requests of which nobody knows what came, the oldest first; those whose lease has ended
        are among them after the next sweep, at most a minute or so later."""
        found = await (await self._ground.demand("select")).select(
            (ONCE,), UNKNOWN_MARK, "", "~", min(limit, PAGE_MAX)
        )
        return [read_record(cell.value) for _, cell in found]

    async def resolve(
        self, place: Place | str, answer: Answer | None, *, by: str, why: str
    ) -> None:
        """Say what came of an unknown request: the `answer` that repetitions get, or None when it
        did not happen, so that the next one is carried out.

        `by` and `why` are kept with the answer, and logged. Raises `NoSuchRequest`,
        `NotResolvable`.
        """
        name = place if isinstance(place, str) else place.name
        keep = round(self.retention_seconds * MICROS)
        replies.demand_done(await self.ask(Resolve(name, answer, keep, by, why)), name)
        what = "it did not happen" if answer is None else f"answer {answer.status}"
        log.info("request %s was resolved by %s: %s (%s)", name, by, what, why)

    async def expire(self, place: Place | str, *, by: str, why: str) -> None:
        """Forget a key now: the next request with it is a first one. Raises `NoSuchRequest`,
        `NotResolvable` while it is running."""
        name = place if isinstance(place, str) else place.name
        replies.demand_done(await self.ask(Expire(name)), name)
        log.info("request %s was made to expire by %s (%s)", name, by, why)

    async def erase(self, principal: str, tenant: str = "") -> int:
        """Forget the answers that were given to a principal, which may hold personal data; gives
        how many. What is running or unknown stays. Raises `ValueError` for nobody at all."""
        store = await self._ground.demand("select")
        who, erased, stay = replies.who_of(principal, tenant), 0, 0
        while True:
            found = await store.select((ONCE,), WHO_MARK, who, who, stay + PAGE_MAX)
            is_all, stay = len(found) < stay + PAGE_MAX, len(found)  # it comes before the rest
            for _, cell in found:
                if read_record(cell.value).state == "done":
                    gone = (await self.ask(Expire(cell.key))).said == "done"
                    erased, stay = erased + gone, stay - gone
            if is_all:
                return erased

    async def sweep(self) -> int:
        """Do what is due: leases that ended, retentions that passed; done from time to time by
        itself."""
        return await self._ground.sweep()

    # --- for `Once` -------------------------------------------------------------------------------

    def ask(self, command: Command) -> Awaitable[Reply]:
        """Carry out `command`. Raises what the store raises."""
        return self._ground.apply(command)

    @property
    def clock(self) -> Clock:
        """The clock that waits are measured with."""
        return self._ground.clock

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        """As `Clock.call_later`."""
        return self._ground.clock.call_later(seconds, call)

    def begun(self, once: Once) -> None:
        """The key is being carried out here."""
        self._running[once.name] = None
        self._hearts.hold(once)

    def goes_on(self, once: Once) -> None:
        """It still is: its lease was renewed."""
        self._hearts.hold(once)

    def ended(self, once: Once) -> None:
        """It is not any more: who waits for it here looks at once."""
        self._hearts.drop(once)
        event = self._running.pop(once.name, None)
        if event is not None:
            event.set()

    def behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` though nobody waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    def _end_of(self, name: str) -> asyncio.Event:
        """What is set when `name` is not being carried out here any more."""
        if name not in self._running:
            return asyncio.Event()
        event = self._running[name]
        if event is None:
            event = self._running[name] = asyncio.Event()
        return event

    async def attached(self, claim: Claim, wait_seconds: float) -> Reply:
        """What came of a key that another is carrying out, after at most `wait_seconds`."""
        reply = await self._claimed(claim)
        if reply.said == "running" and wait_seconds > 0:
            reply = await self._awaited(claim, wait_seconds)
        self.counts[reply.said] += 1
        return reply

    async def _awaited(self, claim: Claim, wait_seconds: float) -> Reply:
        """The same, of one that is known to be carried out."""
        clock, attempt = self._ground.clock, 0
        end = clock.boot() + wait_seconds
        left = wait_seconds
        while True:
            attempt += 1
            pause = min(left, LOOK_SECONDS_MAX, LOOK_SECONDS_MIN * 1.5**attempt)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._end_of(claim.place.name).wait()
            reply = await self._claimed(claim)
            left = end - clock.boot()
            if reply.said != "running" or left <= 0:
                return reply

    async def _doubts(self) -> bool:
        """Whether the store came back empty less than a retention ago: keys that it does not know
        may have been used."""
        store: Any = await self._ground.store()
        emptied = getattr(store, "emptied", None)
        self._forgets = emptied is not None
        if emptied is None:
            return False
        at: int = await emptied()
        return bool(at) and at + self.retention_seconds * MICROS > await store.now()

    async def trust(self, *, by: str, why: str) -> None:
        """Take keys that the store does not know for new again, after it had come back empty.

        Only for a store that may (Redis); on others it does nothing. It is logged.
        """
        store: Any = await self._ground.store()
        if hasattr(store, "trust"):
            await store.trust()
            log.warning("keys that the store lost are taken for new: %s (%s)", by, why)

    async def _claimed(self, claim: Claim) -> Reply:
        """Ask for the key; where the answer to that was lost, ask again: a claim is known by its
        token. Raises `StoreUnavailable`."""
        if self._forgets is not False and await self._doubts():
            claim = replace(claim, doubted=True)
        for attempt in range(1, CLAIM_TRIES_MAX + 1):
            try:
                return await self.ask(claim)
            except OutcomeUnknown:
                await asyncio.sleep(full_jitter(0.05, 1.0, attempt))
        raise StoreUnavailable("It could not be found out whether the key was taken.")


class Once:
    """A block that is carried out once; what `async with` gives."""

    def __init__(
        self,
        requests: Requests,
        place: Place,
        fingerprints: Mapping[str, str],
        mode: Mode,
        wait_seconds: float,
        retention_seconds: float,
    ) -> None:
        self._requests = requests
        self.name = place.name
        """The key of its cell."""
        self._claim = Claim(place, fingerprints, ids.token(TOKEN_BITS), requests._lease, mode)
        self._wait_seconds = wait_seconds
        self._keep = round(retention_seconds * MICROS)
        self._finished: Answer | None = None
        self._beating: asyncio.Task[None] | None = None
        self._settled = self._carried = False
        self.replayed = False
        """Whether the answer is that of an earlier request: the effect has happened."""
        self.answer: Answer | None = None
        """What was recorded, once it is."""

    @property
    def place(self) -> Place:
        """What the key is bound to."""
        return self._claim.place

    @property
    def mode(self) -> Mode:
        """How it is kept."""
        return self._claim.mode

    @property
    def value(self) -> Any:
        """The value that was recorded, as JSON gives it back. Raises `NotReplayable` when it was
        not kept."""
        answer = self.answer
        if answer is None:
            return None
        if not answer.kept:
            raise NotReplayable
        return msgspec.json.decode(answer.body) if answer.body else None

    def finish(self, value: Any = None) -> None:
        """Say what is to be recorded when the block ends: a value of JSON, or an `Answer`."""
        self._finished = value if isinstance(value, Answer) else Answer(body=codec.encode(value))

    # --- in the effect's own transaction ----------------------------------------------------------

    async def transact(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `function(tables, *args)` and record what it returns, in one transaction.

        As `Outlive.transact`; the function returns a value of JSON, or an `Answer`. Where another
        request with the key was faster, the function's work is rolled back and the first one's
        value is given (`replayed`), also when the function failed over what that one had written.
        Raises what the function raises: then nothing was written, nor recorded. Needs
        `mode="transactional"`.
        """
        app = self._app()
        if self.answer is not None and not self._carried:
            return self.value
        made: list[Answer] = []

        @wraps(function)
        def plain(tables: Any, *args: Any, **kwargs: Any) -> Any:
            carrier = cast("Carrier", _carrier(app, tables))
            demand_first(_checked(app, carrier.look(self._ref)).value)
            answer = answer_of(function(tables, *args, **kwargs))
            now = carrier.look(self._ref).time
            demand_first(carrier.carry((self._put(answer, now),)))
            made[:] = (answer,)

        @wraps(function)
        async def awaited(tables: Any, *args: Any, **kwargs: Any) -> Any:
            carrier = cast("AsyncCarrier", _carrier(app, tables))
            demand_first(_checked(app, await carrier.look(self._ref)).value)
            answer = answer_of(await function(tables, *args, **kwargs))
            now = (await carrier.look(self._ref)).time
            demand_first(await carrier.carry((self._put(answer, now),)))
            made[:] = (answer,)

        try:
            await app.transact(
                awaited if inspect.iscoroutinefunction(function) else plain, *args, **kwargs
            )
        except Faster as other:
            self._replay(other.record)
        except OutcomeUnknown:
            await self._looked_up()
        except Exception:
            if not await self._overtaken():
                raise
        else:
            self.answer, self._carried = made[0], False
        return self.value

    async def within(self, connection: Any, value: Any = None) -> None:
        """Record `value` in the caller's own open transaction; it counts when that is committed.

        `connection` as for `Outlive.within`. Raises `ClaimLost` when another request with the key
        was faster: roll the transaction back, and repeat the request. Needs `transactional`.
        """
        app = self._app()
        carrier, answer = _carrier(app, connection), answer_of(value)
        if isinstance(carrier, AsyncCarrier):
            now = _checked(app, await carrier.look(self._ref)).time
            found = await carrier.carry((self._put(answer, now),))
        else:
            now = _checked(app, carrier.look(self._ref)).time
            found = carrier.carry((self._put(answer, now),))
        if found is not None:
            raise ClaimLost("Another request with this key was faster; roll back and repeat.")
        self.answer, self._carried = answer, True

    async def is_recorded(self) -> bool:
        """Whether the answer is recorded by now; that of `within` goes with its transaction."""
        if not self._carried:
            return self.answer is not None
        record = (await self._requests.ask(Look(self.name))).record
        return record is not None and record.token == self._claim.token

    def _app(self) -> Outlive:
        place = self._requests.place
        if self.mode != "transactional" or not hasattr(place, "transact"):
            raise NotAllowed(
                "This needs mode='transactional' and the application's own store; nothing was "
                "written."
            )
        return cast("Outlive", place)

    @property
    def _ref(self) -> Any:
        return ref_of(self.name)

    def _put(self, answer: Answer, now: int) -> Any:
        claim = self._claim
        fingerprint = claim.fingerprints[NEWEST]
        return done_put(claim.place, fingerprint, claim.token, answer, now, self._keep)

    async def _looked_up(self) -> None:
        """After a commit whose answer was lost: what is there is the truth."""
        reply = await self._requests.ask(Look(self.name))
        if reply.record is None or reply.record.answer is None:
            raise StoreUnavailable("The transaction was not committed; nothing was written.")
        if reply.record.token == self._claim.token:
            self.answer = reply.record.answer
        else:
            self._replay(reply.record)

    async def _overtaken(self) -> bool:
        """Whether another request has recorded the key since this one looked: then what the
        function has met is that one's work (a row that is there already), and its answer is
        given."""
        try:
            reply = await self._requests.ask(Look(self.name))
        except (StoreUnavailable, OutcomeUnknown):
            return False
        if reply.record is None or reply.record.answer is None:
            return False
        self._replay(reply.record)
        return True

    # --- the block --------------------------------------------------------------------------------

    async def __aenter__(self) -> Once:
        """Take the key, or find its answer.

        Raises `KeyReused` (other values), `RequestRunning`, `RequestUnknown`, or what the store
        raises: then nothing is to be done.
        """
        requests, claim = self._requests, self._claim
        try:
            reply = await requests.attached(claim, self._wait_seconds)
        except asyncio.CancelledError:  # it may have been given: nothing was done under it
            requests.behind(self.release())
            raise
        if reply.said == "claimed":
            if claim.mode != "transactional":
                requests.begun(self)
            return self
        self._replay(told(reply))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Record what came of it. After an error the outcome is unknown; in `recovery` the key is
        given back, because what is behind it may be repeated."""
        if self._settled or self.replayed or self.mode == "transactional":
            return
        if error is None:
            await self.complete(self._finished or Answer(body=codec.encode(None)))
        elif self.mode == "recovery":
            await self.release()
        else:
            await self.doubt()

    async def complete(self, answer: Answer) -> Answer:
        """Record `answer`; gives what is recorded, which is another one when an operator was
        faster.

        Tries for `COMPLETE_SECONDS` while the store is out of reach. Raises `RequestUnknown` when
        it cannot be recorded, or the lease ended before: the record says so too, or will.
        """
        command = Complete(self.name, self._claim.token, answer, self._keep)
        try:
            reply = await self._requests.ask(command)
        except (StoreUnavailable, OutcomeUnknown):
            reply = await self._insisted(command)
        finally:  # also of what is refused or cancelled: then its lease ends, and says so
            self._end()
        found = reply.record
        if reply.said == "done" or (found is not None and found.state == "done"):
            assert found is not None and found.answer is not None
            self.answer = found.answer
            self.replayed = found.token != self._claim.token
            return found.answer
        raise RequestUnknown("The lease on this key had ended before its outcome was recorded.")

    async def _insisted(self, command: Complete) -> Reply:
        """Ask again until it is answered. Raises `RequestUnknown` after `COMPLETE_SECONDS`."""
        clock, attempt = self._requests.clock, 0
        end = clock.boot() + COMPLETE_SECONDS
        while True:
            attempt += 1
            await asyncio.sleep(full_jitter(0.05, 1.0, attempt))
            try:
                return await self._requests.ask(command)
            except (StoreUnavailable, OutcomeUnknown):
                if clock.boot() > end:
                    raise RequestUnknown from None

    async def release(self) -> None:
        """Give the key back: nothing was done, and the next request is a first one."""
        await self._let_go(Release(self.name, self._claim.token))

    async def doubt(self) -> None:
        """Record that nobody knows what came of it."""
        await self._let_go(Doubt(self.name, self._claim.token))

    async def _let_go(self, command: Command) -> None:
        self._settled = True
        if self.mode == "transactional":
            return
        try:
            await self._requests.ask(command)
        except OutliveError as error:  # the end of the lease says the same
            log.warning("request %s: not noted (%s)", self.name, error.code)
        finally:
            self._end()

    def _end(self) -> None:
        self._settled = True
        if self._beating is not None:
            self._beating.cancel()
        self._requests.ended(self)

    def beat(self) -> None:
        """Renew the lease; see `Heartbeats`."""
        self._beating = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        """Go on having the key; while the store does not take that, ask again at the next beat."""
        asked = Renew(self.name, self._claim.token, self._claim.lease)
        with suppress(OutliveError):
            if (await self._requests.ask(asked)).said == "lost":
                return
        if not self._settled:
            self._requests.goes_on(self)

    def _replay(self, record: Record) -> None:
        demand_same(record, self._claim.fingerprints)
        if record.answer is None:
            raise RequestRunning
        self.replayed, self.answer = True, record.answer
