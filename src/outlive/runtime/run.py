"""`Run`: what a process's body holds in its hands. Every durable boundary of a body is a call on
it.

    account = await run(open_account, form)            a step: recorded, retried, never run again
    once recorded
    answer = await run.wait("confirmed", within=3600)  leaves memory while it waits
    await run.sleep(86_400)
    row = await run.transact(activate, account)        the caller's own tables, same commit as the
    step's record

A body must be deterministic between these calls: the time from `run.now()`, ids from `run.uuid()`,
chance from
`run.random()`, and everything that touches the world inside a step.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar, overload

from outlive import ids, steps
from outlive.clock import MICROS
from outlive.codec import ANYTHING, Shape, fingerprint
from outlive.errors import WaitTimeout
from outlive.kinds.processes.vocabulary import SleepBegan, StepDone, WaitBegan, WaitDone, Woke
from outlive.runtime import attempts, transactions
from outlive.runtime.activation import Activation

P = ParamSpec("P")
R = TypeVar("R")

KEY_CHARACTERS_MAX = 200


class Run:
    """The process that is running, as its body sees it."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._used: dict[str, int] = {}
        self._key = ""
        self._states = 0
        self._state: Any = None
        self._time = activation.journal.times.get("", 0)
        self._uuids = 0
        self._random: random.Random | None = None

    # --- facts ------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The public id of this process."""
        return self._activation.id

    @property
    def version(self) -> int:
        """The version this process was started under."""
        return self._activation.head.version

    @property
    def key(self) -> str:
        """A stable, opaque key of this process for the outside; a step has its own in
        `attempt().key`."""
        return steps.step_key(self._activation.head.stream, "")

    def now(self) -> datetime:
        """The time of the last record before this point: the same on every replay."""
        return datetime.fromtimestamp(self._time / MICROS, UTC)

    def uuid(self) -> uuid.UUID:
        """A new UUID (version 4): the same on every replay."""
        self._uuids += 1
        bits = ids.seeded(f"{self._activation.head.stream} uuid {self._uuids}").getrandbits(128)
        return uuid.UUID(int=bits, version=4)

    def random(self) -> random.Random:
        """A source of chance that gives the same numbers on every replay. Not for secrets."""
        if self._random is None:
            self._random = ids.seeded(self._activation.head.stream)
        return self._random

    @property
    def state(self) -> Any:
        """The document that GET serves as `data`: what was set last, None before."""
        return self._state

    @state.setter
    def state(self, document: Any) -> None:
        """Becomes durable, and visible, with the next record; costs no commit of its own."""
        self._state = document
        self._states += 1
        if self._states > self._activation.journal.states:
            self._activation.add_state(document, self._states)

    def pivot(self) -> None:
        """From here only forward: nothing before this point is rolled back any more, and no cancel
        is accepted.

        Durable with the next record. An error that leaves the body after it makes the process
        `stuck`, for an operator
        to retry.
        """
        if not self._activation.journal.pivoted:
            if self._activation.halted:
                self._activation.check()
            self._activation.add_pivot()

    # --- steps ------------------------------------------------------------------------------------

    def keyed(self, key: str | int) -> Run:
        """This run with an explicit key for its next call: `await run.keyed(item.id)(charge,
        item)`.

        Use it in loops: the step is then found by `name:key`, in whatever order the loop comes by.
        At most 200
        characters.
        """
        if not 0 < len(str(key)) <= KEY_CHARACTERS_MAX:
            raise ValueError(f"a key has 1 to {KEY_CHARACTERS_MAX} characters")
        self._key = str(key)
        return self

    def _identify(self, name: str) -> str:
        key, self._key = self._key, ""
        if key:
            name = f"{name}:{key}"
        count = self._used.get(name, 0) + 1
        self._used[name] = count
        return name if count == 1 else f"{name}#{count}"

    @overload
    async def __call__(
        self, step: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def __call__(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def __call__(self, step: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Perform `step` with these arguments, durably; gives its result.

        Recorded before it returns: from then on it is never run again. Raises `StepFailed` when
        its attempts are used
        up. When the service dies before the record, it runs again with the same `attempt().key`.
        """
        spec = steps.spec_of(step)
        id = self._identify(spec.name)
        hashed = fingerprint((args, kwargs) if kwargs else args)
        if self._activation.loaded and (done := await self._recorded(id, hashed)) is not None:
            return self._replay(done, spec.shapes()[1])
        order = self._ask(id)
        value, self._time = await attempts.perform(
            self._activation, spec, id, order, hashed, args, kwargs
        )
        return value

    async def transact(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """Run `function(tables, *args)` in the store's own transaction, committed together with
        its record.

        `tables.execute(sql, values)` reaches the caller's own tables. Synchronous and short: it
        holds the store's write
        lock (5 s at most, or the step's `timeout`). It happens once: its rows and its record are
        there, or neither.
        """
        spec = steps.spec_of(function)
        id = self._identify(spec.name)
        hashed = fingerprint((args, kwargs) if kwargs else args)
        if self._activation.loaded and (done := await self._recorded(id, hashed)) is not None:
            value: R = self._replay(done, spec.shapes(skip=1)[1])
            return value
        order = self._ask(id)
        value, self._time = await transactions.perform(
            self._activation, spec, id, order, hashed, args, kwargs
        )
        return value

    async def _recorded(self, id: str, hashed: str) -> StepDone | None:
        record, against = self._activation.journal.find(id, StepDone, hashed)
        if against:
            await self._activation.drift(against)
        if record is None:
            against = self._activation.journal.renamed(id, steps.names())
            if against:
                await self._activation.drift(against)
        found: StepDone | None = record
        return found

    def _ask(self, id: str) -> int:
        """The order of a new record, which is asked for here."""
        journal = self._activation.journal
        order = journal.next_order()
        journal.asked.add(id)
        journal.last_order = order
        return order

    def _replay(self, done: StepDone, shape: Shape) -> Any:
        self._time = self._activation.journal.times.get(done.id, self._time)
        if done.error is not None:
            raise attempts.step_failed(done.id, done.error)
        return shape.read(done.result)

    # --- waiting ----------------------------------------------------------------------------------

    async def wait(self, signal: str, *, within: float | None = None) -> Any:
        """Wait for `signal`; gives its payload, typed if the process declares the signal.

        A signal that came before is taken at once, the earliest first. Raises `WaitTimeout` when
        none came `within`
        seconds; without it the wait has no end. Signal against time-out is decided by one commit.
        While it waits longer
        than a second nothing of the process stays in memory.
        """
        activation = self._activation
        journal = activation.journal
        id = self._identify(f"wait {signal}")
        record, against = journal.find(id, WaitBegan)
        if against:
            await activation.drift(against)
        if record is None:
            record = await self._begin_wait(id, signal, within)
        elif id not in journal.waited and (late := journal.free_signal(signal)) is not None:
            head = activation.with_status("running")
            activation.settle(id, await activation.record(WaitDone(id, late), head=head))
        if id not in activation.settled:
            await activation.park(
                id, record.until, lambda: activation.node.time_out(activation, id)
            )
        ended = journal.waited[id]
        self._time = journal.times.get(id, self._time)
        if ended.signal is None:
            raise WaitTimeout(f"No signal {signal!r} came within {within} s.")
        return self._shape_of(signal).read(journal.signals[ended.signal].payload)

    async def _begin_wait(self, id: str, signal: str, within: float | None) -> WaitBegan:
        activation = self._activation
        if activation.halted:
            activation.check()
        order = self._ask(id)
        early = activation.journal.free_signal(signal)
        if early is not None:
            began = WaitBegan(id, signal, order, None, early)
            activation.settle(id, await activation.record(began))
            return began
        until = None if within is None else activation.node.clock.wall() + round(within * MICROS)
        began = WaitBegan(id, signal, order, until)
        await activation.record(began, head=activation.with_status("waiting", signal), due=until)
        return began

    def _shape_of(self, signal: str) -> Shape:
        declared = self._activation.definition.signals
        return ANYTHING if declared is None else declared.get(signal, ANYTHING)

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` (0 or more), durably: a restart does not start the time anew."""
        if seconds < 0:
            raise ValueError(f"cannot sleep {seconds} seconds")
        activation = self._activation
        id = self._identify("sleep")
        record, against = activation.journal.find(id, SleepBegan)
        if against:
            await activation.drift(against)
        if record is None:
            if activation.halted:
                activation.check()
            until = activation.node.clock.wall() + round(seconds * MICROS)
            record = SleepBegan(id, self._ask(id), until)
            await activation.record(record, head=activation.with_status("waiting"), due=until)
        if id not in activation.journal.woken:
            await activation.park(id, record.until)
            time = await activation.record(Woke(id), head=activation.with_status("running"))
            activation.journal.times[id] = time
        self._time = activation.journal.times.get(id, self._time)
