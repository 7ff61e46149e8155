"""`Run`: what a process's body holds in its hands; each durable boundary is a call on it.

    account = await run(open_account, form)             a step: once recorded, never run again
    answer = await run.wait("confirmed", within=3600)   leaves memory while it waits
    await run.sleep(86_400)
    row = await run.transact(activate, account)         the caller's own tables, same commit
    paid, sent = await run.gather(pay, ship)            branches; `run.first` races them
    async with run.scope():                             an error that leaves it undoes this part
    number = await run.call(ship, order)                another process, as a child of this one
    await run.publish(Shipped(order.id))                an event, for whoever subscribes

A body must be deterministic between these calls: the time from `run.now()`, ids from `run.uuid()`,
chance from `run.random()`, and everything that touches the world inside a step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload
from uuid import UUID

from outlive import ids, steps
from outlive.clock import AHEAD_SECONDS_MAX, MICROS, ahead
from outlive.codec import ANYTHING, Shape, fingerprint
from outlive.errors import Discarded, Drift, WaitTimeout
from outlive.kinds.processes.updates import Update
from outlive.kinds.processes.vocabulary import (
    SleepBegan,
    StepDone,
    WaitBegan,
    WaitDone,
    Woke,
    is_taken,
)
from outlive.runtime import (
    attempts,
    branches,
    callbacks,
    eras,
    fanout,
    scopes,
    transactions,
    updates,
)
from outlive.runtime.activation import Activation
from outlive.runtime.attempts import Course
from outlive.runtime.reaching import Reaching
from outlive.runtime.tagging import RunTags, tags_here

if TYPE_CHECKING:
    from random import Random

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
T = TypeVar("T")
Branch = Callable[["Run"], Awaitable[R]]
"""A part of a body that runs beside others: a function of the run it is given."""

KEY_CHARACTERS_MAX = 200


class Run(Reaching):
    """The process that is running, as its body sees it."""

    __slots__ = ("_activation", "_course", "_key")

    def __init__(self, activation: Activation, course: Course | None = None) -> None:
        self._activation = activation
        self._course = course or Course(activation.journal.times.get("", 0))
        self._key = ""

    def begin_at(self, time: int) -> None:
        """The body began at `time`: of a fork, when the other process did. For the runtime."""
        self._course.time = time

    # --- facts ------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The public id of this process."""
        return self._activation.id

    @property
    def version(self) -> int:
        """The version this process was started under."""
        return self._activation.head.version

    def since(self, version: int) -> bool:
        """Whether this process was started under `version` or a later one.

        For small changes in a body that `accepts` older versions: `if run.since(2): … else: …`. The
        same on every replay and on every node; a process keeps its answer for its whole life, an
        endless one until its next era. Costs no record. Raises `ValueError` for a version that this
        body does not run.
        """
        known = self._activation.definition
        if version not in known.versions:
            runs = ", ".join(str(each) for each in sorted(known.versions))
            raise ValueError(f"{known.label} runs version {runs}; it cannot ask for {version}")
        return self._activation.head.version >= version

    @property
    def era(self) -> int:
        """How many times this process has begun: 1 at first, one more after each `run.again`."""
        return self._activation.head.era

    @property
    def key(self) -> str:
        """A stable, opaque key of this process for the outside, another one in each era; a step has
        its own in `attempt().key`."""
        return steps.step_key(self._activation.head.stream, "")

    def now(self) -> datetime:
        """The time of the last record before this point: the same on every replay."""
        return datetime.fromtimestamp(self._course.time / MICROS, UTC)

    def uuid(self) -> UUID:
        """A new UUID (version 4): the same on every replay."""
        self._course.uuids += 1
        seed = f"{self._stream()} {self._course.path}uuid {self._course.uuids}"
        bits = ids.seeded(seed).getrandbits(128)
        return UUID(int=bits, version=4)

    def random(self) -> Random:
        """A source of chance that gives the same numbers on every replay. Not for secrets."""
        if self._course.random is None:
            self._course.random = ids.seeded(self._stream() + self._course.path)
        return self._course.random

    def _stream(self) -> str:
        """What chance is drawn from: of a fork, where it comes by what another process has done,
        that one's."""
        activation = self._activation
        if activation.journal.forked is None:
            return activation.head.stream
        return activation.journal.drawn_from(self._course.path) or activation.head.stream

    @property
    def state(self) -> Any:
        """The document that GET serves as `data`: what was set last, None before.

        A branch sees what was set before it began, and what it has set itself.
        """
        return self._course.state

    @state.setter
    def state(self, document: Any) -> None:
        """Becomes durable, and visible, with the next record; costs no commit of its own."""
        course = self._course
        course.state = document
        course.states += 1
        if course.states > self._activation.journal.states.get(course.path, 0):
            self._activation.add_state(document, course.states, course.path)

    @property
    def tags(self) -> RunTags:
        """What this process is found by: set as in a dict, durable with the next record; of names
        that the type declares. A body sees what it was started with and what it has set itself, on
        every replay the same. Raises `TagNotDeclared`, `TagInvalid`."""
        return tags_here(self._activation, self._course)

    def pivot(self) -> None:
        """From here only forward: nothing before this point is rolled back any more, and no cancel
        is accepted.

        Durable with the next record. An error that leaves the body after it makes the process
        `stuck`, for an operator to retry.
        """
        self._activation.forward = True
        if not self._activation.journal.pivoted:
            self._activation.check()
            self._activation.add_pivot()

    def deadline(self, seconds: float | None) -> None:
        """The process must have ended `seconds` (above 0) from now, or it is rolled back.

        In the place of an earlier deadline, also of the one it was declared with; None lifts it.
        Durable with the next record, and decided by the store's clock. When it passes, the body is
        interrupted by `Cancelled`, what was done is undone (undos are shielded), and the failure is
        `DeadlineExceeded`. Behind the pivot, and while it is paused or stuck, none passes.
        """
        if seconds is not None and not 0 < seconds <= AHEAD_SECONDS_MAX:
            raise ValueError(f"deadline is {seconds} seconds; above 0, 100 years at most")
        if self._course.path:
            raise RuntimeError("the deadline is the whole process's: set it in the body")
        course, activation = self._course, self._activation
        course.deadlines += 1
        if course.deadlines > activation.journal.deadlines:
            wall = activation.node.clock.wall()
            until = None if seconds is None else ahead(wall, seconds)
            activation.add_deadline(until, course.deadlines)

    async def again(self, value: Any = None) -> NoReturn:
        """End this era and begin the next one with the input `value`: for processes without an end.

        One commit. The next era has the same id and a journal of its own; its steps have other
        keys. Signals that no wait has taken go along. It runs under the newest version declared
        here whose input `value` is. What this era did counts as done: it is not rolled back any
        more. Does not return; let `Discarded` pass. Raises `EraNotOver` in a branch, in a scope, or
        while something is under way beside it; `InvalidInput`, `TooLarge`.
        """
        await eras.begin_next(self, value)

    # --- steps ------------------------------------------------------------------------------------

    def keyed(self, key: str | int) -> Run:
        """This run with an explicit key for its next call: `await run.keyed(item.id)(charge,
        item)`.

        Use it in loops: the step is then found by `name:key`, in whatever order the loop comes by.
        At most 200 characters.
        """
        if not 0 < len(str(key)) <= KEY_CHARACTERS_MAX:
            raise ValueError(f"a key has 1 to {KEY_CHARACTERS_MAX} characters")
        keyed = Run(self._activation, self._course)
        keyed._key = str(key)
        return keyed

    def _identify(self, name: str) -> str:
        course = self._course
        if self._key:
            name = f"{name}:{self._key}"
        if course.path:
            name = course.path + name
        used = course.used
        count = used[name] = used.get(name, 0) + 1
        id = name if count == 1 else f"{name}#{count}"
        if self._activation.scopes:
            scopes.note(self._activation, id)
        return id

    @overload
    def __call__(
        self, step: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(
        self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    def __call__(
        self, step: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Perform `step` with these arguments, durably; gives its result when it is awaited.

        Recorded before it returns: from then on it is never run again. Raises `StepFailed` when its
        attempts are used up. When the service dies before the record, it runs again with the same
        `attempt().key`.
        """
        spec = steps.spec_of(step)
        id = self._identify(spec.name)
        hashed = fingerprint((args, kwargs) if kwargs else args)
        activation = self._activation
        if activation.loaded:
            return self._again(spec, id, hashed, args, kwargs)
        order = self._ask(id)
        return attempts.perform(activation, self._course, spec, id, order, hashed, args, kwargs)

    async def _again(
        self,
        spec: steps.Spec,
        id: str,
        hashed: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """A step of a body that runs again: what is recorded of it, or the step itself."""
        done = await self._recorded(id, hashed)
        if done is not None:
            return self._replay(done, spec.shapes()[1])
        activation, order = self._activation, self._ask(id)
        return await attempts.perform(
            activation, self._course, spec, id, order, hashed, args, kwargs
        )

    @overload
    async def transact(
        self, function: Callable[..., Awaitable[R]], /, *args: Any, **kwargs: Any
    ) -> R: ...
    @overload
    async def transact(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R: ...
    async def transact(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `function(tables, *args)` in the store's own transaction, committed together with its
        record.

        `tables.execute(sql, values)` reaches the caller's own tables; on PostgreSQL the annotation
        of the first parameter may ask for a connection of asyncpg's, psycopg's or SQLAlchemy's
        instead, and the function may be `async`. Short: it holds the write lock of SQLite, and its
        node's turn to write (5 s at most, or the step's `timeout`). It happens once: its rows and
        its record are there, or neither.
        """
        spec = steps.spec_of(function)
        id = self._identify(spec.name)
        hashed = fingerprint((args, kwargs) if kwargs else args)
        if self._activation.loaded and (done := await self._recorded(id, hashed)) is not None:
            return self._replay(done, spec.shapes(skip=1)[1])
        order = self._ask(id)
        try:
            return await transactions.perform(
                self._activation, spec, id, order, hashed, args, kwargs
            )
        finally:
            self._pass(id)

    async def _recorded(self, id: str, hashed: str) -> StepDone | None:
        branch = self._branch()
        record, against = self._activation.journal.find(id, StepDone, hashed, branch)
        if against:
            await self._activation.drift(against)
        journal = self._activation.journal
        if record is None:
            against = journal.renamed(id, steps.names(), branch, self._course.path)
            if against:
                await self._activation.drift(against)
        elif id in journal.closed:
            await self._never(id)
        found: StepDone | None = record
        return found

    def _ask(self, id: str) -> int:
        """The order of a new record, which is asked for here."""
        activation = self._activation
        if activation.shielded:
            raise Discarded  # the body has failed: what it does beside that does not count
        if self._course.closed:
            raise asyncio.CancelledError  # its branch was ended and has not let that out
        journal = activation.journal
        if activation.loaded:
            return journal.ask(id, self._branch())
        journal.last_order += 1  # nothing was recorded before it ran: nothing can be out of order
        return journal.last_order

    def _branch(self) -> object:
        """What runs beside what: None for the body itself, the path of a branch, or the task that
        either has made."""
        activation, course = self._activation, self._course
        if not activation.loaded:
            return None
        if activation.definition.is_async:
            task = asyncio.current_task()
            if task is not (course.home or activation.task):
                return task
        return course.path or None

    async def _never(self, id: str) -> None:
        """What `id` came to was not waited for when it was begun: nobody hears of it now."""
        await self._activation.park(f"closed {id}", None)

    def _pass(self, id: str) -> None:
        """The time of this body is that of the last record it has seen."""
        self._course.pass_time(self._activation.journal.times.get(id, 0))

    def _replay(self, done: StepDone, shape: Shape) -> Any:
        self._pass(done.id)
        if done.error is not None:
            raise attempts.step_failed(done.id, done.error)
        try:
            return shape.read(done.result)
        except ValueError as error:
            raise Drift(f"what {done.id} gave does not fit its type: {str(error)[:500]}") from error

    # --- parts of a body --------------------------------------------------------------------------

    def branch(self, name: str) -> Run:
        """A run for a part that goes on beside this one, with a path and an order of its own."""
        course = self._course
        path = f"{course.path}{name}:{self._key}" if self._key else f"{course.path}{name}"
        count = course.used[f"{path}/"] = course.used.get(f"{path}/", 0) + 1
        made = Course(course.time, f"{path}/" if count == 1 else f"{path}#{count}/")
        made.state = course.state
        return Run(self._activation, made)

    @overload
    async def gather(self, a: Branch[A], b: Branch[B], /) -> tuple[A, B]: ...
    @overload
    async def gather(self, a: Branch[A], b: Branch[B], c: Branch[C], /) -> tuple[A, B, C]: ...
    @overload
    async def gather(
        self, a: Branch[A], b: Branch[B], c: Branch[C], d: Branch[D], /
    ) -> tuple[A, B, C, D]: ...
    @overload
    async def gather(self, *branches: Branch[R]) -> tuple[R, ...]: ...
    async def gather(self, *functions: Branch[Any]) -> tuple[Any, ...]:
        """Run branches beside each other; gives their results, in their order.

        A branch is a function that takes a run, its own: its steps are named and counted below the
        function's name (`pay/charge`), so they replay in any interleaving. 1 to 1000. When one
        raises, the others are cancelled, and what it raised is recorded (one commit) and raised. A
        step interrupted by that is undone with `Unknown` when the process or a scope rolls back.
        When the service dies, each branch goes on from its own records.
        """
        return await branches.gather(self, functions)

    @overload
    async def first(self, a: Branch[A], b: Branch[B], /) -> A | B: ...
    @overload
    async def first(self, a: Branch[A], b: Branch[B], c: Branch[C], /) -> A | B | C: ...
    @overload
    async def first(self, *branches: Branch[R]) -> R: ...
    async def first(self, *functions: Branch[Any]) -> Any:
        """Race branches; gives the result of the first that returns.

        The winner is one record (one commit): a replay gives the same. The others are cancelled,
        and their steps that have an undo are undone before this returns, the last first. A branch
        that raises is out of the race; when all have, the first failure is raised.
        """
        return await branches.first(self, functions)

    @overload
    async def all(
        self,
        items: Iterable[T],
        step: Callable[[T], Awaitable[R]],
        *,
        limit: int,
        key: Callable[[T], str | int] | None = None,
    ) -> fanout.Outcomes[T, R]: ...
    @overload
    async def all(
        self,
        items: Iterable[T],
        step: Callable[[Run, T], Awaitable[R]],
        *,
        limit: int,
        key: Callable[[T], str | int] | None = None,
    ) -> fanout.Outcomes[T, R]: ...
    @overload
    async def all(
        self,
        items: Iterable[T],
        step: Callable[[T], R],
        *,
        limit: int,
        key: Callable[[T], str | int] | None = None,
    ) -> fanout.Outcomes[T, R]: ...
    async def all(
        self,
        items: Iterable[Any],
        step: Callable[..., Any],
        *,
        limit: int,
        key: Callable[[Any], str | int] | None = None,
    ) -> fanout.Outcomes[Any, Any]:
        """Perform `step(item)` for each item, at most `limit` (1 to 1000) at a time.

        Gives `.results`, and `.failures` for the items whose step gave up: they stop nothing. Each
        item is a step with one record, found by `key(item)`, by its place without it; give a key
        when the items may come in another order on a replay. At most 100,000 items, no two with one
        key. When the service dies, recorded items are not run again. A declared process in the
        place of `step` makes each item a child; see `start`.
        """
        return await fanout.perform_all(self, items, step, limit, key)

    def scope(self) -> scopes.Scope:
        """`async with run.scope():` an error that leaves it undoes what was completed inside.

        The last step first, each undo recorded and tried again; then the error goes on, and may be
        caught: the process goes on. Costs no commit when no error leaves it. Undoes nothing when
        the error is not one of `rollback_on`, or behind `run.pivot()`. When the service dies on the
        way, what is left is undone by whoever goes on.
        """
        return scopes.Scope(self)

    # --- waiting ----------------------------------------------------------------------------------

    @overload
    async def wait(self, signal: callbacks.Callback[T]) -> T: ...
    @overload
    async def wait(self, signal: str, *, within: float | None = None) -> Any: ...
    async def wait(
        self, signal: str | callbacks.Callback[Any], *, within: float | None = None
    ) -> Any:
        """Wait for `signal`; gives its payload, typed if the process declares the signal; of a
        callback, what it was told.

        A signal that came before is taken at once, the earliest first. Raises `WaitTimeout` when
        none came `within` seconds; without it the wait has no end. Signal against time-out is
        decided by one commit. While it waits longer than a second nothing of the process stays in
        memory.
        """
        if isinstance(signal, callbacks.Callback):
            return await callbacks.wait(self, signal)
        n = await self._take(signal, within)
        return self._shape_of(signal).read(self._activation.journal.signals[n].payload)

    async def _take(self, signal: str, within: float | None, until: int | None = None) -> int:
        """Wait for what waits under the name `signal`; gives its `n` in the journal."""
        activation = self._activation
        journal = activation.journal
        id = self._identify(f"wait {signal}")
        record, against = journal.find(id, WaitBegan, branch=self._branch())
        if against:
            await activation.drift(against)
        if record is None:
            record = await self._begin_wait(id, signal, within, until)
        elif id not in journal.waited and (late := journal.free_signal(signal)) is not None:
            head = activation.with_status("running")
            activation.settle(id, await activation.record(WaitDone(id, late), head=head))
        if id in journal.closed:
            await self._never(id)
        if id not in activation.settled:
            await activation.park(
                id, record.until, lambda: activation.node.time_out(activation, id)
            )
            if (telemetry := activation.node.telemetry) is not None:
                taken = journal.waited[id].signal
                telemetry.resumed(activation, id, None if taken is None else journal.signals[taken])
        ended = journal.waited[id]
        self._pass(id)
        if ended.signal is None:
            what = signal if is_taken(signal) else f"signal {signal!r}"
            limit = "in time" if within is None else f"within {within} s"
            raise WaitTimeout(f"No {what} came {limit}.")
        return ended.signal

    async def _begin_wait(
        self, id: str, signal: str, within: float | None, until: int | None
    ) -> WaitBegan:
        activation = self._activation
        if activation.halted:
            activation.check()
        order = self._ask(id)
        early = activation.journal.free_signal(signal)
        if early is not None:
            began = WaitBegan(id, signal, order, None, early)
            activation.settle(id, await activation.record(began))
            return began
        if within is not None and until is None:
            until = ahead(activation.node.clock.wall(), within)
        began = WaitBegan(id, signal, order, until)
        head = activation.with_status(activation.parked_status(), signal)
        await activation.record(began, head=head, due=until)
        return began

    async def wait_update(
        self, update: Update[A, B], *, within: float | None = None
    ) -> updates.Asked[A, B]:
        """Wait for `update`, which this process declares; answer it with `answer` or `refuse`.

        One that came before is taken at once, the earliest first. Raises `WaitTimeout` as `wait`
        does. One that is never answered is told so when the process ends.
        """
        return await updates.wait(self, update, within)

    @overload
    async def callback(
        self, name: str, *, type: type[T], within: float | None = None
    ) -> callbacks.Callback[T]: ...
    @overload
    async def callback(
        self, name: str, *, within: float | None = None
    ) -> callbacks.Callback[Any]: ...
    async def callback(
        self, name: str, *, type: Any = None, within: float | None = None
    ) -> callbacks.Callback[Any]:
        """Make an address that an outside system may call once; await what this gives to have what
        it said.

        `.url` is good when this returns: one commit. `type`: what is said, as the process declares
        it by `callbacks=`. `within`: seconds (above 0) until its time is up; then awaiting it
        raises `WaitTimeout`, and a call is refused. The same on every replay. Its token is a
        secret that stands in no record: give `.url` to steps without an undo only.
        """
        return await callbacks.make(self, name, type, within)

    def _shape_of(self, signal: str) -> Shape:
        declared = self._activation.definition.signals
        return ANYTHING if declared is None else declared.get(signal, ANYTHING)

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` (0 or more), durably: a restart does not start the time anew."""
        if seconds < 0:
            raise ValueError(f"cannot sleep {seconds} seconds")
        activation = self._activation
        id = self._identify("sleep")
        record, against = activation.journal.find(id, SleepBegan, branch=self._branch())
        if against:
            await activation.drift(against)
        if record is None:
            if activation.halted:
                activation.check()
            until = ahead(activation.node.clock.wall(), seconds)
            record = SleepBegan(id, self._ask(id), until)
            head = activation.with_status(activation.parked_status())
            await activation.record(record, head=head, due=until)
        if id in activation.journal.closed:
            await self._never(id)
        if id not in activation.journal.woken:
            await activation.park(id, record.until)
            time = await activation.record(Woke(id), head=activation.with_status("running"))
            activation.journal.times[id] = time
            if (telemetry := activation.node.telemetry) is not None:
                telemetry.resumed(activation, id, None)
        self._pass(id)
