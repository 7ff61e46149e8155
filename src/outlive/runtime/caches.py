"""A cache in one instance: hits from memory, one load of a key in the fleet, stamps by class.

    call ─▶ in memory and fresh ─────────────────────────────────▶ served: nothing is awaited
              │ its stamps are to be looked at ─▶ the same? ─────▶ served
              │ behind its life, may be served ─▶ loaded behind ─▶ served
              ▼
            one load of the key in this process ─▶ another instance has it ─▶ kept, served
                                                 ─▶ the lease is ours: the source is asked

A load is a task of its own: whoever asked first may leave, and the others still get it. Its age
counts from its beginning, and the stamps that it carries are those read before it began. Who joins
a load that began before the call looks at the stamps again where the class demands it.

Where the store does not answer, an `exact` or `bounded` cache keeps nothing and asks its source
each time; the others go on with what they have.

Not promised: that a value is there at all. Dropping everything changes how long a call takes, and
nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar, TypeVarTuple, Unpack, cast

from msgspec import Raw, Struct

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.codec import Shape, encode
from outlive.errors import LoadTooLong, NotCacheable, OutliveError
from outlive.kinds.caches.plain import is_plain
from outlive.kinds.caches.rule import TAGS_MAX, Bounds, Holds, Life
from outlive.kinds.caches.shared import (
    VALUES,
    Fill,
    Kept,
    Take,
    key_digest,
    stamp_put,
    stamp_ref,
)
from outlive.kinds.caches.tinylfu import ENTRY_BYTES, Entry, TinyLFU
from outlive.model import Put, Ref, Require
from outlive.runtime.apply import Applier
from outlive.runtime.inherited import forgets_in_child
from outlive.runtime.stamps import Generations
from outlive.steps import carried_here, is_transacting

log = logging.getLogger("outlive.caches")
Args = TypeVarTuple("Args")
R = TypeVar("R")
ROUNDS_MAX = 5
"""How often a call looks again, when what it was given was invalidated meanwhile."""
LEASE_TIME = 0.9
"""The part of a lease after which a load is stopped: this clock may go slower."""
POLL_SECONDS, POLL_SECONDS_MAX = 0.01, 0.2
FAILING_MAX = 1024
"""Keys whose last load failed that are remembered."""
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.05, 5.0
KEY_BYTES_MAX = 1024


class Counts(Struct):
    """What a cache has done since it was made."""

    loads: int = 0
    failed: int = 0
    found: int = 0
    """Values that another instance had loaded."""
    joined: int = 0
    """Calls that waited for a load which was under way: stampedes saved."""
    stale: int = 0
    looks: int = 0
    """Reads of stamps."""
    unkept: int = 0
    load_seconds: float = 0.0


class Terms(Struct, frozen=True, kw_only=True):
    """What was declared about a cache."""

    holds: Holds
    bounds: Bounds
    life: Life
    shared: bool = True
    load_seconds: float = 10.0
    loads_max: int = 32
    schema: str = "1"


class Cache(Generic[*Args, R]):
    """A cached function; see `Outlive.cache`. Call it with the arguments of the function."""

    def __init__(
        self,
        name: str,
        function: Callable[[Unpack[Args]], Awaitable[R]],
        terms: Terms,
        *,
        tags: Callable[[Unpack[Args]], Sequence[str]] | None = None,
        shape: Shape,
        clock: Clock,
        generations: Generations | None = None,
        applier: Callable[[], Awaitable[Applier]] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = name
        self.terms = terms
        self.counts = Counts()
        self.policy = TinyLFU(terms.bounds)
        self._function = function
        self._tags = tags
        self._shape = shape
        self._clock, self._now = clock, clock.boot
        self._find = self.policy.find
        self._hit = self.policy.hit
        stamped = terms.holds.is_stamped and generations is not None
        self._generations = generations if stamped else None
        self._applier = applier if stamped and terms.shared else None
        self._failing: OrderedDict[Any, tuple[int, float]] = OrderedDict()
        self.forget()
        forgets_in_child(self)

    def forget(self) -> None:
        """See `inherited`."""
        self._loading: dict[Any, asyncio.Task[Entry]] = {}
        self._looking: set[Any] = set()
        self._room = asyncio.Semaphore(self.terms.loads_max)

    @property
    def has_tags(self) -> bool:
        """Whether its values have tags."""
        return self._tags is not None

    # --- asking -----------------------------------------------------------------------------------

    async def __call__(self, *args: *Args) -> R:
        """The value for these arguments. Raises what the function raises, `LoadTooLong`, and
        `NotCacheable` for arguments that make no key."""
        entry = self._find(args)
        if entry is not None and self._now() < entry.fresh_until:
            self._hit(entry)
            value: R = entry.value if entry.is_plain else self._read(entry)
            return value
        return cast("R", await self._served(args, entry))

    def peek(self, *args: *Args) -> R | None:
        """What is here and may be served without looking anywhere; None when there is nothing."""
        entry = self._find(args)
        if entry is None or self._now() >= entry.fresh_until:
            return None
        self._hit(entry)
        return cast("R", self._read(entry))

    async def checked(self, *args: *Args) -> tuple[R, tuple[Require, ...]]:
        """The value, and what a batch must `require` so that it is only committed while the value
        is not invalidated. Raises `NotCacheable` unless the cache is `exact`."""
        if self.terms.holds.name != "exact":
            raise NotCacheable(f"{self.name} is {self.terms.holds.name}: nothing may rest on it.")
        value = await self(*args)
        entry = self._find(args)
        refs = self._refs(args)
        if entry is None:
            raise NotCacheable(f"{self.name} could not keep the value, so it has no stamps.")
        pairs = zip(refs, entry.stamps, strict=True)
        return value, tuple(Require(ref, version) for ref, version in pairs)

    def _read(self, entry: Entry) -> Any:
        """The value, as a copy of its own where it could be changed."""
        return entry.value if entry.is_plain else self._shape.read(entry.value)

    async def _served(self, args: Any, entry: Entry | None) -> Any:
        if is_transacting():
            raise NotCacheable(
                f"{self.name} was asked in a transaction, of which it knows nothing: ask before."
            )
        asked = self._now()
        found = None if entry is None else await self._still_good(args, entry, asked)
        if found is not None:
            self._hit(found)
            return self._read(found)
        self.policy.miss()
        for _ in range(ROUNDS_MAX):
            found, began_before = await self._loaded(args, entry)
            if not began_before or await self._is_current(args, found, asked):
                return self._read(found)
            entry = None
        raise LoadTooLong(f"{self.name} was invalidated again and again while it was loaded.")

    async def _still_good(self, args: Any, entry: Entry, now: float) -> Entry | None:
        """`entry`, if it may be served for a call at `now`."""
        life, holds = self.terms.life, self.terms.holds
        if life.idle is not None and now - entry.asked >= life.idle:
            self.policy.drop(entry.key, "dropped")
            return None
        entry.asked = now
        if now >= entry.ends + life.while_revalidate:
            return None
        if holds.name == "best_effort" and self._generations is not None:
            self._look_behind(args, entry, now)
        elif not await self._is_current(args, entry, now):
            return None
        now = self._now()
        if now >= entry.ends:
            self.counts.stale += 1
        if now >= entry.refresh_at:
            self._begin(args, entry)
        self._freshen(entry, now)
        return entry

    async def _is_current(self, args: Any, entry: Entry, asked: float) -> bool:
        """Whether `entry` is as its class demands for a call at `asked`; looks at the stamps if it
        must."""
        holds = self.terms.holds
        if not holds.is_strict or self._generations is None:
            return True
        if holds.name == "bounded" and self._now() - entry.checked < holds.seconds:
            return True
        if entry.checked > asked:  # known since this call began
            return True
        return await self._look(args, entry)

    async def _look(self, args: Any, entry: Entry) -> bool:
        """Compare the stamps of `entry`; let go of it if they have changed."""
        assert self._generations is not None
        self.counts.looks += 1
        now, refs = self._now(), self._refs(args)
        try:
            stamps = await self._generations.read(refs)
        except (OutliveError, TimeoutError):
            return False
        if stamps != entry.stamps:
            if self._find(args) is entry:
                self.policy.drop(entry.key, "invalidated")
            return False
        entry.checked = max(entry.checked, now)
        return True

    def _look_behind(self, args: Any, entry: Entry, now: float) -> None:
        if now - entry.checked < self.terms.holds.seconds or args in self._looking:
            return

        async def look() -> None:
            try:
                if await self._look(args, entry):
                    self._freshen(entry, self._now())
                else:
                    entry.checked = now  # not asked again at once
            finally:
                self._looking.discard(args)

        self._looking.add(args)
        _in_its_own_context(look())

    def _freshen(self, entry: Entry, now: float) -> None:
        """Say until when `entry` may be served without another thought."""
        holds = self.terms.holds
        until = min(entry.ends, entry.refresh_at)
        if self._generations is not None:
            if holds.name == "exact":
                until = 0.0
            elif entry.checked + holds.seconds < until:
                until = entry.checked + holds.seconds
        if self.terms.life.idle is not None:
            until = min(until, now + self.terms.life.idle / 2)
        entry.fresh_until = until

    # --- loading ----------------------------------------------------------------------------------

    async def _loaded(self, args: Any, entry: Entry | None) -> tuple[Entry, bool]:
        """What a load brings, and whether it had begun before this call."""
        joined = args in self._loading
        self.counts.joined += joined
        task = self._begin(args, entry)
        try:
            return await asyncio.shield(task), joined
        except Exception:
            life = self.terms.life
            if entry is None or not life.if_error or self._now() >= entry.ends + life.if_error:
                raise
            if self.terms.holds.is_strict and not await self._is_current(args, entry, self._now()):
                raise
            self.counts.stale += 1
            return entry, False

    def _begin(self, args: Any, entry: Entry | None) -> asyncio.Task[Entry]:
        task = self._loading.get(args)
        if task is None:
            self._demand_key(args)
            if not self._loading:  # what is idle may have been of an event loop that has ended
                self._room = asyncio.Semaphore(self.terms.loads_max)
            task = _in_its_own_context(self._load(args, entry))
            self._loading[args] = task
            task.add_done_callback(functools.partial(self._ended, args))
        return task

    def _ended(self, args: Any, task: asyncio.Task[Entry]) -> None:
        del self._loading[args]
        if not task.cancelled() and task.exception() is not None:
            log.debug("loading %s failed: %r", self.name, task.exception())

    async def _load(self, args: Any, old: Entry | None) -> Entry:
        """Find the value for `args`: in the shared store, or at the source."""
        await self._back_off(args)
        async with self._room:
            stamps: tuple[int, ...] | None = ()
            began = self._now()
            if self._generations is not None:
                refs = self._refs(args)
                try:
                    stamps = await self._generations.read(refs)
                except (OutliveError, TimeoutError) as error:
                    log.warning("The stamps of %s cannot be read: %s", self.name, error)
                    stamps = None
            lease: Entry | Lease | None = None
            if self._applier is not None and stamps is not None:
                lease = await self._lease(args, stamps, old, began)
            if isinstance(lease, Entry):
                return lease
            return await self._from_source(args, stamps, lease, began)

    async def _from_source(
        self, args: Any, stamps: tuple[int, ...] | None, lease: Lease | None, began: float
    ) -> Entry:
        seconds = self.terms.load_seconds
        if lease is not None:
            seconds = max(0.0, lease.sent + seconds * LEASE_TIME - self._now())
        self.counts.loads += 1
        load_began = self._now()
        try:
            async with asyncio.timeout(seconds) as limit:
                value = await self._function(*args)
            data = encode(value)
        except BaseException as error:
            self.counts.failed += 1
            if lease is not None and isinstance(error, Exception):
                _in_its_own_context(self._fill(lease, None, None))
            if isinstance(error, TimeoutError) and limit.expired():
                error = LoadTooLong(f"{self.name} was not loaded within {seconds:g} s.")
            if isinstance(error, Exception):
                self._note_failure(args)
            raise error
        took = self._now() - load_began
        self.counts.load_seconds += took
        self._failing.pop(args, None)
        lives = self._life_of(value is None) * (1.0 - _drawn() * self.terms.life.jitter)
        origin = 0 if lease is None else round(began * MICROS) + lease.ahead
        entry = self._kept(args, value, data, stamps, began, took, began, lives, origin)
        if lease is not None:
            await self._fill(lease, data, entry)
        return entry

    def _kept(
        self, args: Any, value: Any, data: bytes, stamps: tuple[int, ...] | None, began: float,
        took: float, checked: float, seconds: float, origin: int = 0,
    ) -> Entry:  # fmt: skip
        """An entry of what was loaded from `began` on and lives `seconds`; kept if it may be."""
        life = self.terms.life
        plain = is_plain(value)
        entry = Entry(args, len(data) + _weight(args) + ENTRY_BYTES)
        entry.value, entry.is_plain = (value if plain else data), plain
        entry.ends, entry.origin, entry.began = began + seconds, origin, began
        entry.expires = entry.ends + life.behind
        early = -math.log(_drawn()) * life.early * took
        entry.refresh_at = entry.ends - early if life.early else entry.ends
        entry.asked = self._now()
        entry.checked, entry.stamps = checked, stamps or ()
        self._freshen(entry, entry.asked)
        if stamps is None and self.terms.holds.is_strict:
            self.counts.unkept += 1  # read for the calls that wait for it
        elif seconds > 0:
            self.policy.put(entry, entry.asked)
        return entry

    def _life_of(self, is_none: bool) -> float:
        life = self.terms.life
        return (life.negative or 0.0) if is_none else life.ttl

    async def _back_off(self, args: Any) -> None:
        """Wait when the last loads of this key failed."""
        _, until = self._failing.get(args, (0, 0.0))
        wait = until - self._now()
        if wait > 0:
            await _slept(self._clock, wait)

    def _note_failure(self, args: Any) -> None:
        times = self._failing.pop(args, (0, 0.0))[0] + 1
        wait = ids.full_jitter(BACKOFF_SECONDS, BACKOFF_SECONDS_MAX, times)
        self._failing[args] = (times, self._now() + wait)
        if len(self._failing) > FAILING_MAX:
            self._failing.popitem(last=False)

    # --- the shared store -------------------------------------------------------------------------

    async def _lease(
        self, args: Any, stamps: tuple[int, ...], old: Entry | None, began: float
    ) -> Entry | Lease | None:
        """What another instance has loaded, or the lease; None when the store does not answer."""
        assert self._applier is not None
        key = f"{self.name}/{key_digest(self.terms.schema, args)}"
        lease = Lease(key, ids.token(), self._now())
        ends, tries = lease.sent + 2 * self.terms.load_seconds, 0
        while True:
            lease.sent = self._now()
            known = -1 if old is None else old.origin
            take = Take(key, lease.token, self.terms.load_seconds, stamps, known)
            try:
                applier = await self._applier()
                async with asyncio.timeout(self.terms.load_seconds):
                    taken = await applier.apply(VALUES, take)
            except (OutliveError, TimeoutError) as error:
                log.warning("%s is not shared: %s", self.name, error)
                return None
            if taken.found is not None:
                self.counts.found += 1
                return self._taken(args, taken.found, taken.now, lease.sent, began)
            if taken.is_leased:
                lease.ahead = taken.now - round(self._now() * MICROS)
                return lease
            tries += 1
            if self._now() >= ends:
                raise LoadTooLong(f"{self.name}: others were loading the value all the time.")
            self._room.release()  # who waits for others takes nobody's place
            try:
                await _slept(self._clock, ids.full_jitter(POLL_SECONDS, POLL_SECONDS_MAX, tries))
            finally:
                await self._room.acquire()

    def _taken(self, args: Any, kept: Kept, now: int, sent: float, checked: float) -> Entry:
        """What another instance has loaded, as an entry here; its age goes on. Its stamps were
        those of the store after `checked`."""
        data = bytes(kept.data)
        value = self._shape.read(data)
        began = sent - max(0.0, (now - kept.began) / MICROS)
        lives = (kept.ends - kept.began) / MICROS
        return self._kept(args, value, data, kept.stamps, began, 0.0, checked, lives, kept.began)

    async def _fill(self, lease: Lease, data: bytes | None, entry: Entry | None) -> None:
        """Give the others what was loaded, or the lease back."""
        assert self._applier is not None
        lives = 0.0 if entry is None else max(0.0, entry.ends - entry.checked)
        if data is None or entry is None or not lives or len(data) > self.terms.bounds.value_bytes:
            fill = Fill(lease.key, lease.token)
        else:
            keep = lives + self.terms.life.behind
            given = Raw(data)
            fill = Fill(lease.key, lease.token, given, entry.stamps, entry.origin, lives, keep)
        try:
            applier = await self._applier()
            async with asyncio.timeout(self.terms.load_seconds):
                await applier.apply(VALUES, fill)
        except (OutliveError, TimeoutError) as error:
            log.warning("%s could not be shared: %s", self.name, error)

    # --- making old -------------------------------------------------------------------------------

    def stamps(self, *args: *Args) -> tuple[Put, ...]:
        """What a batch puts to make the value for these arguments old, when it is committed.
        Raises `NotCacheable` for a `never_authoritative` cache: no other instance would know."""
        self._demand_stamped()
        return (self._put(self._key_ref(args)),)

    async def invalidate(self, *args: *Args) -> None:
        """Make the value for these arguments old, everywhere; durable when this returns. Where the
        write that makes it old is a transaction of the store, use `invalidate_in` instead."""
        if self._generations is not None:
            await self._generations.commit(self.stamps(*args))
        self._drop_here(args)

    def invalidate_in(self, tables: object, *args: *Args) -> None:
        """Make the value for these arguments old with the commit of the transaction that runs:
        inside a function given to `app.transact` or `run.transact`, whose `tables` this gets.

        Rolled back, nothing was invalidated. Raises `NotCacheable` outside of one.
        """
        self._carry(self.stamps(*args), lambda: self._drop_here(args))

    async def invalidate_tag(self, tag: str) -> None:
        """Make all values with `tag` old, everywhere; durable when this returns."""
        self._demand_stamped()
        if self._generations is not None:
            await self._generations.commit((self._put(stamp_ref(self.name, f"tag:{tag}")),))
        self.policy.clear("invalidated")

    def invalidate_tag_in(self, tables: object, tag: str) -> None:
        """As `invalidate_in`, of all values with `tag`."""
        self._demand_stamped()
        put = self._put(stamp_ref(self.name, f"tag:{tag}"))
        self._carry((put,), lambda: self.policy.clear("invalidated"))

    async def clear(self) -> None:
        """Make all values old, everywhere; durable when this returns."""
        if self._generations is not None:
            await self._generations.commit((self._put(stamp_ref(self.name, "*")),))
        self.policy.clear("dropped")

    def _carry(self, puts: Sequence[Put], after: Callable[[], None]) -> None:
        carried = carried_here()
        if carried is None:
            raise NotCacheable(
                "invalidate_in is for a function that was given to `transact`; outside of one use "
                "`await invalidate(…)`, or put `stamps(…)` into your batch."
            )
        for put in puts:
            carried.puts[put.ref] = put
        carried.after.append(after)

    def _drop_here(self, args: Any) -> None:
        self.policy.drop(args, "invalidated")

    def _demand_stamped(self) -> None:
        if not self.terms.holds.is_stamped:
            raise NotCacheable(
                f"{self.name} is never_authoritative: what is invalidated here is served elsewhere."
            )

    def _put(self, ref: Ref) -> Put:
        return stamp_put(ref, self.terms.life.longest + self.terms.load_seconds)

    def _key_ref(self, args: Any) -> Ref:
        self._demand_key(args)
        return stamp_ref(self.name, key_digest("", args))

    def _refs(self, args: Any) -> tuple[Ref, ...]:
        """The stamps of a value: of all, of its key, of its tags."""
        tags = () if self._tags is None else tuple(self._tags(*args))
        if len(tags) > TAGS_MAX:
            raise NotCacheable(f"a value of {self.name} has {len(tags)} tags; {TAGS_MAX} may be.")
        every = stamp_ref(self.name, "*")
        return (every, self._key_ref(args), *(stamp_ref(self.name, f"tag:{tag}") for tag in tags))

    def _demand_key(self, args: Any) -> None:
        if any(type(part) not in (str, int) for part in args):
            raise NotCacheable(f"{self.name} takes text and integers as arguments, by position.")
        if _weight(args) > KEY_BYTES_MAX:
            raise NotCacheable(
                f"the arguments of {self.name} take more than {KEY_BYTES_MAX} bytes."
            )


class Lease(Struct):
    """The right to load a key, until `load_seconds` after `sent`."""

    key: str
    token: str
    sent: float
    ahead: int = 0
    """The store's clock less this one, in microseconds: or less."""


def _drawn() -> float:
    """Above 0, at most 1."""
    return max(1e-9, ids.full_jitter(1.0, 1.0, 1))


def _weight(args: Any) -> int:
    """Bytes of a key: its texts in UTF-8, its numbers as wide as they are."""
    return sum(
        len(part.encode("utf-8", "surrogatepass"))
        if isinstance(part, str)
        else 8 + int(part).bit_length() // 8
        for part in args
    )


def _in_its_own_context(work: Any) -> asyncio.Task[Any]:
    """A task that nobody's deadline, transaction or trace goes with."""
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


_running: set[asyncio.Task[Any]] = set()


async def _slept(clock: Clock, seconds: float) -> None:
    over = asyncio.Event()
    later = clock.call_later(seconds, over.set)
    try:
        await over.wait()
    finally:
        later.cancel()
