"""Calls to a dependency, guarded: one fixed order, whoever calls.

    deadline ─▶ retry (budget) ─▶ [hedge] ─▶ breaker ─▶ bulkhead ─▶ attempt time-out ─▶ the call

    deadline    for all of the work, also what is nested in it (`with payments.within(5)`); no
                attempt begins that could not end in time
    retry       full jitter; only what is declared idempotent; what an open breaker, a full bulkhead
                or a passed deadline said is final. One layer retries: inside it, and inside a step
                of a process, nobody else does
    budget      one purse for all callers in this program; empty: the first error, at once
    breaker     see `runtime/breakers.py`
    bulkhead    how many calls may be under way here

What is cut off because the caller gave up counts neither for nor against the dependency. What was
answered with "your request is wrong" counts for it.

Local to this program: the bulkhead, the budget, the windows. Shared by all instances: whether it is
open, since when, and who probes.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, ParamSpec, TypeVar, cast

from msgspec import Struct

from outlive import ids
from outlive.clock import Clock
from outlive.errors import (
    AttemptTooLong,
    BulkheadFull,
    DeadlinePassed,
    DependencyError,
)
from outlive.kinds.breakers.budget import Purse
from outlive.kinds.breakers.rule import (
    NAME_CHARACTERS_MAX,
    Breaker,
    RetryBudget,
    is_failure,
    retry_after,
)
from outlive.kinds.breakers.standing import Standing, state_of
from outlive.runtime.apply import Applier
from outlive.runtime.breakers import Gate, Permit
from outlive.runtime.deadlines import (
    attempt_here,
    deadline_here,
    enter_attempt,
    leave_attempt,
    until,
)
from outlive.runtime.inherited import forgets_in_child
from outlive.steps import Retry, attempt

P = ParamSpec("P")
R = TypeVar("R")
PARTS_MAX = 256
"""Parts of one dependency (hosts, shards) that one instance keeps in memory."""
ONCE = Retry(attempts=1)


class Plan(Struct, frozen=True):
    """How one function is called."""

    idempotent: bool = False
    failed: Callable[[Exception], bool] = is_failure
    failed_result: Callable[[Any], bool] | None = None
    hold: Callable[[Any, Call], Any] | None = None
    """What is given back instead of a good result; it ends the call itself, later."""
    discard: Callable[[Any], Awaitable[None]] | None = None
    """What is done with a result that is not given back."""

    def is_bad(self, result: Any) -> bool:
        """Whether `result` says that the dependency is not well."""
        return self.failed_result is not None and self.failed_result(result)

    async def throw_away(self, result: Any) -> None:
        """Nobody gets `result`."""
        if self.discard is not None:
            await self.discard(result)


class Call:
    """One attempt that is under way; see `Permit`."""

    __slots__ = ("_over", "_part", "permit")

    def __init__(self, part: Part, permit: Permit) -> None:
        self._part = part
        self.permit = permit
        self._over = False
        part.under_way += 1

    def well(self) -> None:
        """The dependency did what was asked."""
        if self._leave():
            self.permit.well()

    def badly(self) -> None:
        """The dependency failed."""
        if self._leave():
            self.permit.badly()

    def forget(self) -> None:
        """It says nothing about the dependency."""
        if self._leave():
            self.permit.forget()

    def left(self) -> float:
        """Seconds that a probe still has."""
        return max(0.0, self.permit.ends - self._part.gate.now())

    def _leave(self) -> bool:
        if self._over:
            return False
        self._over = True
        self._part.under_way -= 1
        return True


class Part:
    """A dependency, or one host or shard of it: a breaker and a bulkhead of its own."""

    __slots__ = ("dependency", "gate", "under_way")

    def __init__(self, dependency: Dependency, gate: Gate) -> None:
        self.dependency = dependency
        self.gate = gate
        self.under_way = 0

    async def enter(self) -> Call:
        """Raises `BreakerOpen` or `BulkheadFull`."""
        permit = await self.gate.enter()
        most = self.dependency.bulkhead
        if most is not None and self.under_way >= most:
            permit.forget()
            raise BulkheadFull(
                f"{most} calls to {self.gate.key} are under way; this one was not made.",
                dependency=self.gate.key,
            )
        return Call(self, permit)


class Dependency:
    """Something else that is called, and may be down: see `Outlive.dependency`."""

    def __init__(
        self,
        name: str,
        *,
        breaker: Breaker | None = None,
        retry: Retry = ONCE,
        budget: RetryBudget | None = None,
        bulkhead: int | None = None,
        timeout: float | None = None,
        hedge_seconds: float | None = None,
        least_seconds: float = 0.0,
        clock: Clock | None = None,
        applier: Callable[[], Awaitable[Applier]] | None = None,
        who: Callable[[], str] = lambda: "",
    ) -> None:
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            raise ValueError(f"a dependency's name has 1 to {NAME_CHARACTERS_MAX} characters")
        for what, given in (("bulkhead", bulkhead), ("timeout", timeout)):
            if given is not None and given <= 0:
                raise ValueError(f"{what} is {given}; it must be above 0")
        if hedge_seconds is not None and hedge_seconds <= 0:
            raise ValueError(f"hedge_seconds is {hedge_seconds}; it must be above 0")
        self.name = name
        self.breaker = breaker or Breaker()
        self.retry = retry
        self.bulkhead = bulkhead
        self.timeout = timeout
        self.hedge_seconds = hedge_seconds
        self.least_seconds = least_seconds
        self.purse = Purse(budget or RetryBudget())
        self.clock = clock or Clock()
        self._applier, self._who = applier, who
        self._past: Counter[str] = Counter()
        """What parts had counted that are not here any more."""
        self.forget()
        forgets_in_child(self)

    def forget(self) -> None:
        """See `inherited`: calls under way are the parent's, and so is what it had counted."""
        self._whole = self._made(self.name)
        self._parts: OrderedDict[str, Part] = OrderedDict()
        self._past.clear()

    def counts(self) -> Counter[str]:
        """Calls that `passed` and that were `refused`, of all parts, since this program began; and
        how many parts are in each state, and decide `alone`."""
        found = Counter(self._past)
        for part in self.parts.values():
            gate = part.gate
            found.update(passed=gate.passed, refused=gate.refused, alone=bool(gate.alone))
            found[state_of(gate.standing)] += 1
        return found

    def _made(self, key: str) -> Part:
        gate = Gate(key, self.breaker, self.clock, self._applier, self._who)
        return Part(self, gate)

    def part(self, name: str = "") -> Part:
        """The part of that name (a host, a shard; never a user), or the whole.

        At most `PARTS_MAX` are kept here: the one that was idle longest goes, and comes back from
        the store.
        """
        if not name:
            return self._whole
        found = self._parts.get(name)
        if found is None:
            found = self._parts[name] = self._made(f"{self.name}/{name[:NAME_CHARACTERS_MAX]}")
            if len(self._parts) > PARTS_MAX:
                idle = next((key for key, part in self._parts.items() if not part.under_way), name)
                gone = self._parts.pop(idle).gate
                self._past.update(passed=gone.passed, refused=gone.refused)
        if name in self._parts:
            self._parts.move_to_end(name)
        return found

    @property
    def parts(self) -> Mapping[str, Part]:
        """The whole (under an empty name) and the parts that were called lately."""
        return {"": self._whole, **self._parts}

    # --- calling ----------------------------------------------------------------------------------

    def guard(
        self,
        *,
        idempotent: bool = False,
        failed: Callable[[Exception], bool] = is_failure,
        failed_result: Callable[[Any], bool] | None = None,
        part: str = "",
        fallback: Callable[P, Awaitable[R]] | None = None,
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
        """Guard an `async` function that calls the dependency.

        `idempotent`: it may be done twice, so it may be retried and hedged. `failed`: whether an
        error says that the dependency is not well; `failed_result`: the same of a result (retried
        like an error; the last one is given back). `part`: which part it calls. `fallback`: what is
        called instead, with the same arguments, when it failed or was refused. Calling it raises
        what it raises, and `BreakerOpen`, `BulkheadFull`, `AttemptTooLong`, `DeadlinePassed`.
        Raises `TypeError` for a function that is not `async`.
        """
        plan = Plan(idempotent, failed, failed_result)

        def guarded(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
            call = _guarded(self, part, plan, function)
            return call if fallback is None else _with_fallback(plan, call, fallback)

        return guarded

    async def call(
        self,
        function: Callable[P, Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call `function` once, guarded; see `guard`."""
        made = functools.partial(function, *args, **kwargs)
        return cast("R", await self.carry(self._whole, Plan(), made))

    def transport(self, inner: Any = None, *, per_host: bool = True) -> Any:
        """An `httpx` transport whose requests are guarded; `inner` is the one that sends them.

        Retried and hedged are requests whose method is idempotent or that carry an
        `Idempotency-Key`. `per_host`: a breaker for each host. Needs `httpx`.
        """
        from outlive.runtime.transports import GuardedTransport

        return GuardedTransport(self, inner, per_host=per_host)

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """Give all that is called inside, of any dependency, `seconds` together; less if what is
        around it has less."""
        return until(self.clock.boot() + seconds)

    async def carry(self, part: Part, plan: Plan, function: Callable[[], Awaitable[Any]]) -> Any:
        """Call `function` by `plan`, in the order that this file describes."""
        may_repeat = plan.idempotent and not attempt_here() and not attempt().process
        tries = self.retry.attempts if may_repeat else 1
        hedged = may_repeat and self.hedge_seconds is not None
        once = functools.partial(self._once, part, plan, function)
        first: Exception | None = None
        for number in range(1, tries + 1):
            mark = enter_attempt(number) if may_repeat and (tries > 1 or hedged) else None
            try:
                result = await (self._hedged(plan, once) if hedged else once())
            except Exception as error:
                first = first or error
                if isinstance(error, DependencyError) and not error.counts:
                    raise
                again = plan.failed(error) and number < tries and self.retry.again(error, number)
                if not again or not await self._wait(number, retry_after(error)):
                    raise first from None
                continue
            finally:
                if mark is not None:
                    leave_attempt(mark)
            if not plan.is_bad(result):
                if number == 1:
                    self.purse.earn(self.clock.boot())
                return result
            asked = retry_after(_Answered(result))
            if number == tries or not await self._wait(number, asked):
                return result
            await plan.throw_away(result)
        raise AssertionError("the last try returns or raises")

    async def _wait(self, number: int, asked: float) -> bool:
        """Wait before the next try; False when there is no time, when a longer wait than
        `cap_seconds` is asked for, or when nothing is left in the purse."""
        if asked > self.retry.cap_seconds:
            return False
        wait = max(asked, ids.full_jitter(self.retry.base_seconds, self.retry.cap_seconds, number))
        now, deadline = self.clock.boot(), deadline_here()
        if deadline is not None and now + wait + self.least_seconds >= deadline:
            return False
        if not self.purse.spend(now):
            return False
        if wait:
            await _slept(self.clock, wait)
        return True

    async def _once(self, part: Part, plan: Plan, function: Callable[[], Awaitable[Any]]) -> Any:
        """One attempt."""
        deadline = deadline_here()
        if deadline is not None:
            self._demand_time(part, deadline)
        call = await part.enter()
        limit, late = self._limit(part, call, deadline)
        try:
            try:
                if limit is None:
                    result = await function()
                else:
                    async with asyncio.timeout(limit) as scope:
                        result = await function()
            except TimeoutError as error:
                if limit is None or not scope.expired():
                    self._judged(plan, call, error)
                    raise
                (call.forget if isinstance(late, DeadlinePassed) else call.badly)()
                raise late from error
            except Exception as error:
                self._judged(plan, call, error)
                raise
            if plan.is_bad(result):
                call.badly()
            elif plan.hold is not None:
                return plan.hold(result, call)
            else:
                call.well()
            return result
        except BaseException:  # cancelled, or the judgement failed: nothing if it was ended
            call.forget()
            raise

    def _judged(self, plan: Plan, call: Call, error: Exception) -> None:
        if plan.failed(error):
            call.badly()
        elif isinstance(error, DependencyError):
            call.forget()
        else:
            call.well()

    def _demand_time(self, part: Part, deadline: float) -> None:
        if self.clock.boot() + self.least_seconds >= deadline:
            raise DeadlinePassed(
                f"There is no time left for {part.gate.key}; it was not called.",
                dependency=part.gate.key,
            )

    def _limit(
        self, part: Part, call: Call, deadline: float | None
    ) -> tuple[float | None, DependencyError]:
        """How long this attempt may take, and what is raised then."""
        key, limit = part.gate.key, self.timeout
        if call.permit.ends:
            limit = min(limit or call.permit.ends, call.permit.ends - call.permit.began)
        late: DependencyError = AttemptTooLong(
            f"{key} did not answer within {limit or 0:g} s.", dependency=key
        )
        if deadline is not None:
            left = max(0.0, deadline - self.clock.boot())
            if limit is None or left < limit:
                limit = left
                late = DeadlinePassed(f"The time was over before {key} answered.", dependency=key)
        return limit, late

    async def _hedged(self, plan: Plan, once: Callable[[], Awaitable[Any]]) -> Any:
        """The first good result of one attempt, or of two when it takes long."""
        loop = asyncio.get_running_loop()
        unread = {loop.create_task(_awaited(once))}
        error: Exception | None = None
        try:
            await asyncio.wait(unread, timeout=self.hedge_seconds)
            if not any(task.done() for task in unread) and self.purse.spend(self.clock.boot()):
                unread.add(loop.create_task(_awaited(once)))
            while unread:
                done, running = await asyncio.wait(unread, return_when=asyncio.FIRST_COMPLETED)
                brought = [task for task in done if task.exception() is None]
                brought.sort(key=lambda task: plan.is_bad(task.result()))
                if brought and not (running and plan.is_bad(brought[0].result())):
                    unread.discard(brought[0])  # else the one that is running may do better
                    return brought[0].result()
                for task in done:
                    unread.discard(task)
                    found = task.exception()
                    if found is None:
                        await plan.throw_away(task.result())
                    elif not isinstance(found, Exception):
                        raise found
                    else:
                        error = error or found
            assert error is not None
            raise error
        finally:
            for task in unread:
                task.cancel()
            for task in unread:
                with suppress(Exception, asyncio.CancelledError):
                    await plan.throw_away(await task)

    # --- operators --------------------------------------------------------------------------------

    async def force_open(self, who: str, why: str, part: str = "") -> Standing:
        """Let nobody call it, on any instance, until `release`; durable when this returns."""
        return await self.part(part).gate.control("force open", who, why)

    async def force_closed(self, who: str, why: str, part: str = "") -> Standing:
        """Let everybody call it, whatever happens, until `release`; durable when this returns."""
        return await self.part(part).gate.control("force closed", who, why)

    async def release(self, who: str, why: str, part: str = "") -> Standing:
        """Hold it no longer: it stands again as its calls go."""
        return await self.part(part).gate.control("release", who, why)

    async def reset(self, who: str, why: str, part: str = "") -> Standing:
        """Close it now, hold it no longer, and begin to count anew."""
        return await self.part(part).gate.control("reset", who, why)

    async def standing(self, part: str = "") -> Standing:
        """How it stands for all instances, and what was done by whom and why."""
        gate = self.part(part).gate
        return await gate.refresh()

    async def settled(self) -> None:
        """Wait until what is to be told to the other instances is told."""
        for part in self.parts.values():
            await part.gate.settled()


def _guarded(
    dependency: Dependency, name: str, plan: Plan, function: Callable[P, Awaitable[R]]
) -> Callable[P, Awaitable[R]]:
    if not inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{getattr(function, '__name__', function)} is not async: a thread cannot be stopped "
            "when its time is over, so what is promised about probes would not hold."
        )

    @functools.wraps(function)
    async def carried(*args: P.args, **kwargs: P.kwargs) -> Any:
        made = functools.partial(function, *args, **kwargs)
        return await dependency.carry(dependency.part(name), plan, made)

    repeats = dependency.retry.attempts > 1 or dependency.hedge_seconds is not None
    plain = dependency.bulkhead is None and dependency.timeout is None and not name
    if not plain or (plan.idempotent and repeats):
        return carried
    return _quick(dependency, plan, function, carried, repeats)


def _quick(
    dependency: Dependency,
    plan: Plan,
    function: Callable[P, Awaitable[R]],
    carried: Callable[..., Awaitable[Any]],
    earns: bool,
) -> Callable[P, Awaitable[R]]:
    """The call with nothing around it but a breaker that is closed: no store, no lock."""
    gate = dependency.part().gate
    now, flying, well, purse = gate.now, gate.flying, gate.windows.well, dependency.purse
    failed, failed_result, slow_seconds = plan.failed, plan.failed_result, gate.rule.slow_seconds
    deadline = deadline_here

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        began = now()
        if began >= gate.quiet_until or deadline() is not None:
            return await carried(*args, **kwargs)
        gate.passed += 1
        gate.began = number = gate.began + 1
        flying[number] = began
        try:
            try:
                result = await function(*args, **kwargs)
            except Exception as error:
                counts = failed(error)
                if not counts and isinstance(error, DependencyError):
                    gate.forgotten(number, "")
                else:
                    gate.ended(number, began, counts)
                raise
            if failed_result is not None and failed_result(result):
                gate.ended(number, began, True)
                return result
        except BaseException:  # cancelled, or the judgement failed: nothing if it was ended
            gate.forgotten(number, "")
            raise
        ended = now()
        if ended - began >= slow_seconds:
            gate.ended(number, began, False)
        else:
            flying.pop(number, None)
            well(ended)
        if earns:
            purse.earn(ended)
        return result

    return call


def _with_fallback(
    plan: Plan, call: Callable[P, Awaitable[R]], fallback: Callable[P, Awaitable[R]]
) -> Callable[P, Awaitable[R]]:
    @functools.wraps(call)
    async def either(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await call(*args, **kwargs)
        except Exception as error:
            if not isinstance(error, DependencyError) and not plan.failed(error):
                raise
        return await fallback(*args, **kwargs)

    return either


class _Answered(Struct):
    response: Any


async def _awaited(once: Callable[[], Awaitable[Any]]) -> Any:
    return await once()


async def _slept(clock: Clock, seconds: float) -> None:
    over = asyncio.Event()
    later = clock.call_later(seconds, over.set)
    try:
        await over.wait()
    finally:
        later.cancel()
