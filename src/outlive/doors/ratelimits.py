"""Rate limits as an application uses them: ask before the work, and do it when it is admitted.

    api = app.ratelimits(Quota("burst", 20), Quota("daily", 1000, per_seconds=86_400))

    if not await api.hit("ada"): …            a function
    service = api.asgi(app, key=by_user())    in front of an ASGI application (web/ratelimits.py)

    exports = app.slots(Slots("exports", 2))
    async with exports.hold("acme"): …        at most two at once

Where what is used is counted is its *scope*:

    shared   in the store, by one decision: never more than allowed, however many processes ask
    hybrid   in the store, `ahead` tokens at a time, which this process then gives out by itself for
             `ahead_seconds`: in any interval at most `ahead` more for each process; what it does
             not use is lost, unless the application closes in order
    local    in this process: as many times more as there are processes, and nothing after a restart

A refusal is remembered for as long as it lasts, at most `DENIED_SECONDS_MAX`, so that somebody who
does not stop asking costs nothing. Deadlines here are on this machine's clock: it can refuse a
little longer, and never admits more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakSet

from msgspec import Struct
from msgspec.structs import replace

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import (
    Conflict,
    NoSlot,
    OutcomeUnknown,
    OutliveError,
    RateLimited,
    StoreUnavailable,
)
from outlive.kinds.ratelimits import (
    RATELIMITS,
    Acquire,
    Answer,
    Hit,
    Keys,
    Quota,
    Refund,
    Release,
    Reset,
    Slots,
    Standing,
    Use,
)
from outlive.kinds.ratelimits.algorithms import State, give_back
from outlive.kinds.ratelimits.deciding import SPACES, answer_of, take_all
from outlive.kinds.ratelimits.quotas import QUOTAS_MAX
from outlive.kinds.ratelimits.slots import Held
from outlive.runtime.inherited import forgets_in_child
from outlive.runtime.waits import Waits

if TYPE_CHECKING:
    from outlive.doors.cells import Place
    from outlive.model import Storage

log = logging.getLogger("outlive.ratelimits")
Scope = Literal["shared", "hybrid", "local"]
Failing = Literal["open", "closed"]
DENIED_SECONDS_MAX = 1.0
KEYS_MAX = 100_000
"""Keys that a process remembers: use in local scope, tokens in hybrid scope, refusals."""
AHEAD_MAX = 100_000
FAILED_SECONDS = 1.0
"""How long the store is not asked after it could not be: meanwhile `on_failure` decides."""
UNASKED = (StoreUnavailable, OutcomeUnknown, Conflict, TimeoutError)


class _Block(Struct, gc=False):
    """Tokens that were taken ahead in hybrid scope, and how things stood then."""

    uses: tuple[Use, ...]
    tokens: int
    until: float
    answer: Answer


class RateLimiter:
    """Quotas that are decided as one; made by `app.ratelimits`."""

    def __init__(
        self,
        place: Place,
        quotas: tuple[Quota, ...],
        *,
        clock: Clock,
        scope: Scope,
        storage: Storage,
        ahead: int,
        ahead_seconds: float,
        on_failure: Failing,
        timeout_seconds: float,
    ) -> None:
        names = [quota.name for quota in quotas]
        if not 1 <= len(quotas) <= QUOTAS_MAX or len(set(names)) < len(names):
            raise ValueError(f"give 1 to {QUOTAS_MAX} quotas with names of their own: {names}")
        if scope not in ("shared", "hybrid", "local"):
            raise ValueError(f"there is no scope {scope!r}: shared, hybrid or local")
        if scope == "hybrid" and not 1 < ahead <= AHEAD_MAX:
            raise ValueError(f"hybrid takes 2 to {AHEAD_MAX} tokens ahead, not {ahead}")
        if on_failure not in ("open", "closed"):
            raise ValueError(f"on_failure is open or closed, not {on_failure!r}")
        self.quotas, self.scope = quotas, scope
        self.counts: Counter[str] = Counter()
        """How often it has `admitted`, `refused`, `shadowed`, and could not ask and `failed_open`
        or `failed_closed`."""
        self._place, self._clock, self._storage = place, clock, storage
        self._ahead, self._ahead_seconds = (ahead, ahead_seconds) if scope == "hybrid" else (0, 0.0)
        self.on_failure, self._timeout = on_failure, timeout_seconds
        self._waits = Waits(timeout_seconds)
        self._shadows = any(quota.shadow for quota in quotas)
        self._uses: dict[tuple[Any, str], tuple[Use, ...]] = {}
        self._denied: dict[tuple[Use, ...], tuple[int, float, Answer]] = {}
        self._local: dict[tuple[Use, ...] | str, State] = {}
        self._refunded: WeakSet[Answer] = WeakSet()
        self._rests_until = float("-inf")
        self._is_away = False
        self.forget()
        forgets_in_child(self)
        if scope == "hybrid":
            place.leaving.append(self._return_all)
        if scope != "local":
            for name in names:
                place.name(SPACES[storage], name, "quotas")
            place.spaces.setdefault(RATELIMITS.name, set()).add(SPACES[storage])

    def forget(self) -> None:
        """In a forked child: what was taken ahead is the parent's to spend."""
        self._blocks: dict[tuple[Use, ...], _Block] = {}
        self._taking: dict[tuple[Use, ...], asyncio.Future[None]] = {}

    # --- asking -----------------------------------------------------------------------------------

    async def hit(self, keys: Keys, cost: int = 1, *, plan: str = "") -> Answer:
        """Use `cost` (1 or more) of every quota for `keys`, or of none; the answer is true when it
        was admitted.

        `keys`: who, as a text or by the parts that the quotas name. `plan`: whose numbers count.
        When the store cannot be asked within the limiter's time, `on_failure` decides. Raises
        `ValueError` for a cost that can never be had, `KeyError` for a part that is missing. When
        the process dies after it, what was used stays used.
        """
        uses = self._uses_of(keys, plan)
        for use in uses:
            if cost < 1 or (cost > use.terms.burst and not use.shadow):
                raise ValueError(
                    f"a cost of {cost} can never be had of {use.name}, which takes 1 to "
                    f"{use.terms.burst} at once; nothing was used."
                )
        if self.scope == "local":
            answer = self._hit_here(uses, cost)
        elif (found := self._known_denied(uses, cost)) is not None:
            answer = found
        elif self._ahead:
            answer = await self._hit_ahead(uses, cost)
        else:
            answer = await self._ask(uses, cost)
        counts = self.counts
        if answer.checked:
            counts["admitted" if answer.admitted else "refused"] += 1
            if self._shadows and answer.shadowed_by:
                counts["shadowed"] += 1
        return answer

    async def demand(self, keys: Keys, cost: int = 1, *, plan: str = "") -> Answer:
        """The same, and raises `RateLimited` when it is not admitted."""
        answer = await self.hit(keys, cost, plan=plan)
        if not answer:
            names = ", ".join(answer.refused_by) or "the store that could not be asked"
            raise RateLimited(
                f"Refused by {names}.", refused_by=answer.refused_by,
                retry_after=answer.retry_seconds,
            )  # fmt: skip
        return answer

    async def peek(self, keys: Keys, *, plan: str = "") -> Answer:
        """How things stand, using nothing. Raises what asking the store raises."""
        uses = self._uses_of(keys, plan)
        if self.scope == "local":
            now = self._now()
            taken = take_all(uses, [self._local.get(use.key) for use in uses], now, 0)
            return answer_of(uses, taken, now, 0)
        return cast("Answer", await self._apply(Hit(uses, 0, self._storage)))

    async def refund(self, keys: Keys, answer: Answer, *, plan: str = "") -> bool:
        """Give back what `answer` has used, because it was not needed after all.

        Once for each answer: then it gives False, as for one that used nothing. What has come back
        by itself meanwhile is not given twice. Raises what asking the store raises: behind
        `Conflict` and `StoreUnavailable` nothing was given back, and it may be asked for again.
        """
        if not answer.admitted or not answer.checked or answer in self._refunded:
            return False
        self._refunded.add(answer)
        uses = self._uses_of(keys, plan)
        if self.scope == "local":
            for use in uses:
                made = give_back(
                    use.terms, self._local.get(use.key), self._now(), answer.cost, answer.time
                )
                if made is not None:
                    self._local[use.key] = made
        else:
            charged = tuple(
                use for use, one in zip(uses, answer.standings, strict=True) if one.admitted
            )
            try:
                await self._apply(Refund(charged, answer.cost, answer.time, self._storage))
            except (Conflict, StoreUnavailable):  # nothing was written: it may be asked for again
                self._refunded.discard(answer)
                raise
        self._denied.clear()
        return True

    async def reset(self, keys: Keys, *, plan: str = "") -> None:
        """Forget what is used. Another process may refuse for `DENIED_SECONDS_MAX` longer, and
        tokens taken ahead stay where they are."""
        uses = self._uses_of(keys, plan)
        self._denied.clear()
        if self.scope == "local":
            for use in uses:
                self._local.pop(use.key, None)
        else:
            await self._apply(Reset(uses, self._storage))

    async def reset_use(self, key: str) -> None:
        """Forget what is used under `key` alone, a quota's name, `/` and a part as it is kept (see
        `excerpts.limit_uses`). As `reset` otherwise; raises `KeyError` for another's key."""
        name = key.partition("/")[0]
        quota = next((one for one in self.quotas if one.name == name), None)
        if quota is None:
            raise KeyError(f"no quota of this limiter is named {name[:64]!r}")
        self._denied.clear()
        if self.scope == "local":
            self._local.pop(key, None)
        else:
            use = Use(name, key, quota.terms(), quota.shadow)
            await self._apply(Reset((use,), self._storage))

    def asgi(self, app: Any, **options: Any) -> Any:
        """An ASGI application that asks this limiter before `app` is called; see
        `web.ratelimits.RateLimited`."""
        from outlive.web.ratelimits import Guard

        return Guard(app, self, **options)

    # --- shared -----------------------------------------------------------------------------------

    async def _ask(self, uses: tuple[Use, ...], cost: int) -> Answer:
        if self._clock.boot() < self._rests_until:
            return self._unasked(uses, cost)
        try:
            answer: Answer = await self._apply(Hit(uses, cost, self._storage, self._ahead))
        except UNASKED as error:
            if not isinstance(error, Conflict):  # others need not wait for the same again
                self._rests_until = self._clock.boot() + FAILED_SECONDS
                self._say_away(error)
            return self._unasked(uses, cost)
        self._is_away = False
        if not answer.admitted:
            self._remember_denied(uses, cost, answer)
        return answer

    def _apply(self, command: Any) -> Awaitable[Any]:
        """Carry out `command` within the limiter's time. Raises `TimeoutError` and what the store
        raises, some of it at once."""
        applier = self._place.opened
        if applier is None:
            return self._first(command)
        return self._waits.limit(applier.submit(RATELIMITS, command))

    async def _first(self, command: Any) -> Any:
        """The same, of what opens the store."""
        async with asyncio.timeout(self._timeout):
            return await (await self._place.applier()).submit(RATELIMITS, command)

    def _say_away(self, error: BaseException) -> None:
        """Warn of an outage when it begins: a limiter that fails open looks like one at rest."""
        if not self._is_away:
            self._is_away = True
            passes = "every hit is let through" if self.on_failure == "open" else "nothing passes"
            names, why = (
                ",".join(one.name for one in self.quotas),
                f"{error}" or "no answer in time",
            )
            log.warning("rate limit %s: %s until the store can be asked: %s", names, passes, why)

    def _unasked(self, uses: tuple[Use, ...], cost: int) -> Answer:
        """What is answered when the store could not be asked."""
        is_open = self.on_failure == "open" or all(use.shadow for use in uses)
        self.counts["failed_open" if is_open else "failed_closed"] += 1
        standings = () if is_open else tuple(
            Standing(
                use.name, use.terms.count, use.terms.period / MICROS, 0, FAILED_SECONDS, False,
                use.shadow,
            )
            for use in uses
        )  # fmt: skip
        return Answer(is_open, standings, 0, cost, checked=False)

    def _known_denied(self, uses: tuple[Use, ...], cost: int) -> Answer | None:
        found = self._denied.get(uses)
        if found is None:
            return None
        least, until, answer = found
        left = until - self._clock.boot()
        if left <= 0:
            del self._denied[uses]
            return None
        return answer if cost >= least else None

    def _remember_denied(self, uses: tuple[Use, ...], cost: int, answer: Answer) -> None:
        if len(self._denied) >= KEYS_MAX:
            self._denied.clear()
        until = self._clock.boot() + min(answer.retry_seconds, DENIED_SECONDS_MAX)
        self._denied[uses] = (cost, until, answer)

    # --- hybrid -----------------------------------------------------------------------------------

    async def _hit_ahead(self, uses: tuple[Use, ...], cost: int) -> Answer:
        """Use tokens that are here; fetch more, one at a time for each key, when they are not
        enough."""
        while True:
            block = self._blocks.get(uses)
            if block is not None and block.until > self._clock.boot() and block.tokens >= cost:
                block.tokens -= cost
                return _at(block.answer, block.tokens, cost)
            if (denied := self._known_denied(uses, cost)) is not None:
                return denied
            taking = self._taking.get(uses)
            if taking is None:
                break
            await asyncio.shield(taking)
        taking = self._taking[uses] = asyncio.get_running_loop().create_future()
        try:
            answer = await self._ask(uses, cost)
        finally:
            del self._taking[uses]
            taking.set_result(None)
        tokens = answer.cost - cost
        if answer.admitted and answer.checked and tokens:
            if len(self._blocks) >= KEYS_MAX:
                self._forget_ended()
            until = self._clock.boot() + self._ahead_seconds
            self._blocks[uses] = _Block(uses, tokens, until, answer)
        return _at(answer, tokens, cost)

    def _forget_ended(self) -> None:
        now = self._clock.boot()
        self._blocks = {uses: one for uses, one in self._blocks.items() if one.until > now}
        if len(self._blocks) >= KEYS_MAX:
            self._blocks.clear()

    async def _return_all(self) -> None:
        """Give back what was taken ahead and not used: the application closes."""
        blocks, self._blocks = self._blocks, {}
        now = self._clock.boot()
        for block in blocks.values():
            if block.tokens and block.until > now:
                command = Refund(block.uses, block.tokens, block.answer.time, self._storage)
                with suppress(OutliveError, TimeoutError):  # it comes back by itself, later
                    await self._apply(command)

    # --- local ------------------------------------------------------------------------------------

    def _hit_here(self, uses: tuple[Use, ...], cost: int) -> Answer:
        now, kept = self._now(), self._local
        taken = take_all(uses, [kept.get(use.key) for use in uses], now, cost)
        answer = answer_of(uses, taken, now, cost)
        if answer.admitted:
            if len(kept) >= KEYS_MAX:
                self._forget_local(now)
            for use, one in zip(uses, taken, strict=True):
                if one.admitted:
                    kept[use.key] = one.state
        return answer

    def _forget_local(self, now: int) -> None:
        """Make room: what says nothing any more, else what was there first."""
        terms = {quota.name: quota.terms() for quota in self.quotas}
        for key in list(self._local):
            name = str(key).partition("/")[0]
            use = Use(name, str(key), terms[name])
            (taken,) = take_all((use,), (self._local[key],), now, 0)
            if not taken.clear:
                del self._local[key]
        for key in list(self._local)[: max(0, len(self._local) - KEYS_MAX // 2)]:
            del self._local[key]

    def _now(self) -> int:
        return round(self._clock.boot() * MICROS)

    def _uses_of(self, keys: Keys, plan: str) -> tuple[Use, ...]:
        if isinstance(keys, str) or not isinstance(keys, Mapping):  # the quicker question first
            known: tuple[Any, str] = (keys, plan)
        else:
            known = (tuple(keys.items()), plan)
        uses = self._uses.get(known)
        if uses is None:
            uses = tuple(quota.use(keys, plan) for quota in self.quotas)
            if len(self._uses) >= KEYS_MAX:
                self._uses.clear()
            self._uses[known] = uses
        return uses


def _at(answer: Answer, tokens: int, cost: int) -> Answer:
    """`answer` as it is for one hit among those whose tokens were taken together."""
    standings = tuple(replace(one, left=one.left + tokens) for one in answer.standings)
    return replace(answer, standings=standings, cost=cost)


class SlotKeeper:
    """Slots that are held while something goes on; made by `app.slots`."""

    def __init__(self, place: Place, slots: Slots, storage: Storage, clock: Clock) -> None:
        self._place, self.slots, self._storage, self._clock = place, slots, storage, clock
        self.counts: Counter[str] = Counter()
        """How often one was `held`, and `refused`."""
        place.name(SPACES[storage], slots.name, "slots")
        place.spaces.setdefault(RATELIMITS.name, set()).add(SPACES[storage])

    @asynccontextmanager
    async def hold(self, keys: Keys) -> AsyncIterator[Slot]:
        """Hold a slot for `keys` in this block, and renew its lease meanwhile.

        Raises `NoSlot` when as many as may be are at it, and what the store raises: then nothing
        was taken. When this process dies, the slot is free when its lease ends. `slot.lost` says
        that it could not be renewed in time: by then somebody else may be at it too.
        """
        slot = Slot(self, self.slots.key(keys), ids.token(80))
        try:
            held = await slot.take()
        except BaseException:  # who is cancelled does not hear whether it was taken
            slot.give_up()
            raise
        self.counts["held" if held.held else "refused"] += 1
        if not held.held:
            raise NoSlot(
                f"All {self.slots.count} slots of {self.slots.name} are taken.",
                retry_after=held.seconds,
            )
        renewing = asyncio.get_running_loop().create_task(slot.renew())
        try:
            yield slot
        finally:
            renewing.cancel()
            try:
                await asyncio.gather(renewing, return_exceptions=True)
                with suppress(OutliveError):  # it is free when its lease ends
                    await slot.free()
            except asyncio.CancelledError:
                slot.give_up()
                raise

    async def _apply(self, command: Acquire | Release) -> Held:
        applier = await self._place.applier()
        return cast("Held", await applier.apply(RATELIMITS, command))


class Slot:
    """One slot that is held."""

    def __init__(self, keeper: SlotKeeper, key: str, holder: str) -> None:
        self._keeper, self._key, self._holder = keeper, key, holder
        self._until = 0.0

    @property
    def lost(self) -> bool:
        """Whether its lease has ended, as far as is known here: it errs on the early side."""
        return self._keeper._clock.boot() >= self._until

    async def take(self, *, renew: bool = False) -> Held:
        """Take it, or hold it longer."""
        keeper, slots = self._keeper, self._keeper.slots
        asked = keeper._clock.boot()  # the lease begins later than this
        lease = round(slots.lease_seconds * MICROS)
        command = Acquire(self._key, self._holder, slots.count, lease, keeper._storage, renew=renew)
        held = await keeper._apply(command)
        self._until = asked + slots.lease_seconds if held.held else 0.0
        return held

    async def renew(self) -> None:
        """Hold it longer, again and again, until it is lost."""
        clock = self._keeper._clock
        while not self.lost:
            woken = asyncio.Event()
            timer = clock.call_later(self._keeper.slots.lease_seconds / 3, woken.set)
            try:
                await woken.wait()
            finally:
                timer.cancel()
            with suppress(StoreUnavailable, OutcomeUnknown, Conflict):
                await self.take(renew=True)

    async def free(self) -> None:
        await self._keeper._apply(Release(self._key, self._holder, self._keeper._storage))
        self._until = 0.0

    def give_up(self) -> None:
        """Free it, if it was taken, and wait for nothing: it is decided behind the taking."""
        applier = self._keeper._place.opened
        if applier is not None:
            with suppress(OutliveError):
                applier.submit(RATELIMITS, Release(self._key, self._holder, self._keeper._storage))
