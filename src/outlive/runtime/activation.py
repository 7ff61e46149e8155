"""One process in memory: its journal, its lease, and the task that runs its body.

An activation is disposable. Everything it decides is appended to its journal and applied to memory
at once, but nothing leaves before the commit: `record` is the gate. When a commit is refused the
activation is thrown away and, if this node still owns the process, built anew from what is durable.

    perform   a step's function runs; may be interrupted (cancel, loss of the shard)
    parked    waits for a signal, a timer or a retry; may leave memory at any time
    gone      thrown away: every call from its body raises Discarded, nothing it does counts
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from outlive import codec, steps
from outlive.clock import MICROS
from outlive.errors import Cancelled, Discarded, Drift, OutliveError, Refused, StepFailed, TooLarge
from outlive.kinds.processes import Failure, Head, Journal
from outlive.kinds.processes.cells import put_head
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import (
    KIND_OF,
    Armed,
    Cancel,
    Deadline,
    Ended,
    Paused,
    Pivot,
    StateSet,
    StepDone,
    Stuck,
    Tagged,
    WaitsOn,
    pack,
)
from outlive.model import Append, Batch, Committed, Lease, Put, Ref, Require
from outlive.runtime.mail import last_words

if TYPE_CHECKING:
    from outlive.kinds.processes import Definition
    from outlive.runtime.activations import Activations
    from outlive.runtime.mail import Mail
    from outlive.runtime.offspring import Offspring
    from outlive.runtime.scopes import Scope
    from outlive.runtime.timers import Timer

PASSIVE_SECONDS = 1.0
"""A process that is parked longer than this leaves memory."""
_PLACELESS = ("queued", "paused", "stuck")
_UNDER_WAY = ("running", "compensating")


class _Parked(Struct):
    future: asyncio.Future[None]
    until: int | None
    wake: Callable[[], Any]
    timer: Timer | None = None


class Activation:
    """A process that this node owns, loaded from its journal."""

    __slots__ = (
        "active",
        "alarm",
        "definition",
        "endings",
        "extras",
        "forward",
        "gone",
        "halted",
        "head",
        "id",
        "interrupts",
        "joins",
        "journal",
        "lease",
        "leaving",
        "loaded",
        "node",
        "offspring",
        "parked_at",
        "parking",
        "recovered",
        "ref",
        "scopes",
        "settled",
        "shielded",
        "shields",
        "started",
        "task",
        "trace",
        "transacting",
        "users",
    )

    def __init__(
        self,
        node: Activations,
        definition: Definition,
        ref: Ref,
        head: Head,
        lease: Lease,
        journal: Journal,
        *,
        loaded: bool = False,
        recovered: bool = False,
    ) -> None:
        self.node = node
        self.trace: Any  # set by tracing.py, where there is any
        self.definition = definition
        self.id = ref.key
        self.ref = ref
        self.head = head
        self.lease = lease
        self.journal = journal
        self.loaded = loaded
        """Built from a journal: the body replays what is recorded."""
        self.recovered = recovered
        """Loaded while running: the first unrecorded step may have been started before."""
        self.task: asyncio.Task[None] | None = None
        self.gone = False
        self.leaving = False
        """Its shard is being handed over: it stops at the next durable point."""
        self.halted = journal.cancel is not None and not journal.pivoted
        self.shielded = False
        self.extras: list[Struct] = []
        self.started: dict[str, Armed] = {}
        self.settled: set[str] = set(journal.waited)
        self.parking: dict[str, _Parked] = {}
        self.parked_at: float | None = None
        self.interrupts: dict[Callable[[], Any], None] = {}
        """In the order in which they came to be, as whatever is gone through here: what is done
        about many is then done in the same order in every run of a simulation."""
        self.shields: dict[Callable[[], Any], None] = {}
        """Those of `interrupts` that a cancel leaves alone."""
        self.scopes: list[Scope] = []
        """The scopes that are open, whichever branch has opened them."""
        self.active = 1
        """How many of its tasks could go on: the body, or the branches for which it waits."""
        self.joins = 0
        """How many times its body, or a branch, waits for branches right now."""
        self.offspring: Offspring | None = None
        """Who in it waits for which child; None while nobody has."""
        self.alarm: Timer | None = None
        """Goes off when its deadline has passed."""
        self.forward = False
        """Whether this body has come past its pivot: on a replay later than its journal."""
        self.endings: list[asyncio.Future[Ended | None]] = []
        """Who waits for its end in this node, and gets it when it is durable; None when the
        process left memory before."""
        self.users = 0
        """Commands that are being decided on it: it must not be put down under them."""
        self.transacting: asyncio.Future[None] | None = None

    # --- writing ----------------------------------------------------------------------------------

    def batch(
        self,
        events: tuple[Any, ...],
        head: Head | None,
        due: int | None,
        done: tuple[Require, ...],
        puts: tuple[Put, ...] = (),
    ) -> Batch:
        """The write that appends `events` and makes the cell say `head`; applied to memory at once.

        `done` names commands' cells, at their versions, that it drops; `puts` go with it.
        """
        journal, stream, before = self.journal, self.head.stream, self.head
        drop = tuple(command.ref for command in done)
        appends = []
        for event in events:
            appends.append(Append(stream, journal.next_n, KIND_OF[type(event)], pack(event)))
            journal.apply(event, 0)
        if head is None:
            return Batch(self.lease, done, puts, drop, tuple(appends))
        self.head = head
        if head.status == "waiting":
            parked = (found.until for found in self.parking.values())
            dues = (due, self.deadline(), *journal.dues(), *parked)
            due = min((found for found in dues if found is not None), default=due)
        elif self.parking:
            self._arm_all()
        if due is not None:
            self.node.note_due(due)
        puts = (put_head(self.ref, head, due), *puts)
        if head.lines:
            more, less = self.node.lines.moved(self, before)
            puts, drop = (puts[0], *more, *puts[1:]), (*drop, *less)
        return Batch(lease=self.lease, require=done, append=tuple(appends), put=puts, drop=drop)

    def append(
        self,
        *events: Any,
        head: Head | None = None,
        due: int | None = None,
        done: tuple[Require, ...] = (),
        patient: bool = True,
    ) -> asyncio.Future[Committed]:
        """Decide now; durable when the future gives its receipt. Order of appends is order of
        commits."""
        batch = self.batch(events, head, due, done)
        return self.node.committer.submit(batch, patient=patient)

    async def record(
        self,
        *events: Any,
        head: Head | None = None,
        due: int | None = None,
        puts: tuple[Put, ...] = (),
        mail: Mail | None = None,
    ) -> int:
        """Append and pass the gate; gives the time of the commit. Raises `Discarded` when it was
        refused. `mail` leaves with it."""
        while self.transacting is not None:
            await asyncio.shield(self.transacting)
        if self.gone or self.journal.ended is not None:
            raise Discarded
        if head is not None and self.journal.paused is not None:
            raise Discarded  # paused: no status changes but by who paused it
        if self.extras:
            events, head = (*self.extras, *events), self.tagged(head)
            self.extras = []
        try:
            if mail is None:
                batch = self.batch(events, head, due, (), puts)
                committed = await self.node.committer.submit(batch, patient=True)
            else:
                batch = self.batch(events, head, due, (), (*puts, *mail.puts))
                committed = await mail.post(batch)
        except OutliveError as error:
            raise self.refused(error) from error
        if self.gone:
            raise Discarded
        self.node.tell(self.id)
        return committed.time

    def append_step(self, done: StepDone) -> asyncio.Future[Committed] | None:
        """The gate of a step's record, and nothing beside it; None when `record` must do it."""
        journal = self.journal
        if done.undo and done.id not in self.started:
            raise asyncio.CancelledError  # the part it belonged to is over, and has undone it
        if self.transacting is not None or self.extras or self.gone or journal.ended is not None:
            return None
        append = Append(self.head.stream, journal.next_n, "step", pack(done))
        journal.apply_step(done)
        return self.node.committer.submit(Batch(self.lease, append=(append,)), patient=True)

    def refused(self, error: OutliveError) -> Discarded:
        """A commit of it was refused with `error`: what its body must be told."""
        if isinstance(error, TooLarge) or type(error) is Refused:  # it would be refused again
            self.node.broken(self, error)
        else:
            self.node.lost(self, error)
        return Discarded()

    def with_status(self, status: str, waits_for: str = "") -> Head:
        """The head as it will be with another status; it holds the input until that is recorded.

        Who has no place in the lines that it needs is queued for one, whatever is to be done."""
        if self.head.lines and self.head.status in _PLACELESS and status in _UNDER_WAY:
            status = "queued"
        return msgspec.structs.replace(
            self.head,
            status=status,
            waits_for=waits_for,
            changed=self.node.clock.wall(),
            input=self.head.input if self.journal.started is None else codec.NULL,
            trace=self.head.trace if self.journal.started is None else "",
        )

    # --- stopping ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what must stop the body here: `Discarded` or `Cancelled`."""
        if self.gone or ((self.leaving or self.node.draining) and not self.shielded):
            raise Discarded
        if self.journal.cancel is not None and not (self.shielded or self.journal.pivoted):
            raise Cancelled

    def cancel(self) -> None:
        """A cancel was recorded: interrupt what can be interrupted."""
        if self.journal.pivoted or self.shielded:
            return
        self.halted = True
        self.interrupt(Cancelled())

    def discard(self) -> None:
        """Throw this activation away; nothing it does from here on counts."""
        if self.gone:
            return
        self.gone = self.halted = True
        if self.alarm is not None:
            self.alarm.cancel()
        self.interrupt(Discarded())

    def tell_end(self, event: Ended | None) -> None:
        """Tell who waits in this node that it has ended, or that it is no longer in memory."""
        for ending in self.endings:
            if not ending.done():
                ending.set_result(event)
        self.endings.clear()

    def drain(self) -> None:
        """Stop at the next durable point: at once when parked, and no step is under way beside."""
        self.halted = True
        if self.parking:
            self.node.end_parked(self)

    def put_aside(self) -> None:
        """It is paused: stop at the next durable point, at once when nothing is under way."""
        self.leaving = self.halted = True
        if self.alarm is not None:
            self.alarm.cancel()
        if self.task is None:
            return
        if self.parking and not self.interrupts and self.transacting is None:
            self.node.put_down(self)
            return
        for parked in self.parking.values():  # beside a step that is under way
            if parked.timer is not None:
                parked.timer.cancel()
                parked.timer = None
        self.task.add_done_callback(lambda _: self.node.revive(self.id))

    def interrupt(self, reason: BaseException) -> None:
        """End what is parked and what runs, with `reason`."""
        for parked in self.parking.values():
            if not parked.future.done():
                parked.future.set_exception(reason)
                parked.future.exception()
        shields = self.shields if isinstance(reason, Cancelled) else ()
        for interrupt in list(self.interrupts):
            if interrupt not in shields:
                interrupt()

    # --- parking ----------------------------------------------------------------------------------

    async def park(self, id: str, until: int | None, wake: Callable[[], Any] | None = None) -> None:
        """Wait until `id` is settled, or until the time `until`, when `wake` is called (without: go
        on).

        A far `until` needs no timer: the cell says `waiting` and when, and `look` is called when
        that has passed.
        """
        if id in self.settled:
            return
        if self.halted:
            self.check()
        node = self.node
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call = wake or (lambda: self.settle(id))
        parked = self.parking[id] = _Parked(future, until, call)
        self.parked_at = node.clock.boot()
        if until is not None:
            near = until - node.clock.wall() < 2 * PASSIVE_SECONDS * MICROS
            if near or self.head.status != "waiting":
                parked.timer = node.timers.at(until, call)
        if node.on_park is not None:
            node.on_park()
        try:
            await future
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            if parked.timer is not None:
                parked.timer.cancel()
            self.parking.pop(id, None)
            if not self.parking:
                self.parked_at = None
        if self.halted:
            self.check()

    def _arm_all(self) -> None:
        """It runs again beside what is still parked: the cell says no longer when to wake it."""
        for parked in self.parking.values():
            if parked.timer is None and parked.until is not None:
                parked.timer = self.node.timers.at(parked.until, parked.wake)

    def look(self) -> None:
        """Wake what is parked and due."""
        now = self.node.clock.wall()
        for parked in list(self.parking.values()):
            if parked.until is not None and parked.until <= now:
                parked.wake()

    def settle(self, id: str, time: int = 0) -> None:
        """What `id` waited for is durable since `time`: let it go on."""
        self.settled.add(id)
        if time:
            self.journal.times[id] = time
        parked = self.parking.get(id)
        if parked is not None and not parked.future.done():
            parked.future.set_result(None)

    def may_leave(self, now: float) -> bool:
        """Whether it has been parked long enough to leave memory, and nothing of it is in
        flight."""
        return (
            self.parked_at is not None
            and now - self.parked_at >= PASSIVE_SECONDS
            and (self.head.status == "waiting" or self.leaving)
            and not (self.interrupts or self.users)
            and self.transacting is None
        )

    def parked_status(self) -> str:
        """The status of a process when one more of its tasks is parked: it still runs while
        another may go on, or is in a step."""
        all_parked = len(self.parking) + 1 >= self.active
        return "waiting" if all_parked and not self.interrupts else "running"

    def may_wait(self, now: float) -> bool:
        """Whether nothing of it has gone on for a while, although it is recorded as running: a
        branch has ended beside others that wait, or it was let go on and came to a wait."""
        return (
            self.parked_at is not None
            and now - self.parked_at >= PASSIVE_SECONDS
            and self.head.status == "running"
            and len(self.parking) >= self.active
            and not (self.interrupts or self.users or self.halted)
            and self.transacting is None
        )

    async def wait_on(self) -> None:
        """Record that it waits, so that it can leave memory."""
        if not self.may_wait(self.node.clock.boot()):
            return
        name, events = self.journal.waits_for(), tuple[Any, ...]()
        if self.journal.family is not None:
            name = name or (self.offspring.first if self.offspring is not None else "")
            events = (WaitsOn(name, min(self.journal.dues(), default=None)),)
        await self.record(*events, head=self.with_status("waiting", name))

    def next_try(self) -> int | None:
        """When the next attempt is made of what waits for one; None when nothing does."""
        steps, _ = self.journal.between_attempts()
        return min((self.journal.attempts[id].again_at for id in steps), default=None)

    # --- running ---------------------------------------------------------------------------------

    def run(self, value: Any = None, *, decoded: bool = False) -> None:
        """Begin, or begin again: replay what is recorded and go on from there.

        A suspect that waits for its turn does not run, whoever asks; nor does who stands in line.
        """
        if self.head.status == "queued":
            return
        if self.task is None and not self.gone and not self.node.recovery.holds(self.id):
            loop = asyncio.get_running_loop()
            self.set_alarm()
            self.task = loop.create_task(self.node.live_body(self, value, decoded))

    async def end(
        self, status: str, result: Raw = codec.NULL, error: Failure | None = None
    ) -> None:
        """Record the end; its cell is kept until its retention is over."""
        event = Ended(status, result, error)
        head, due, mail = last_words(self, event)
        await self.record(event, head=head, due=due, mail=mail)
        self.has_ended(event, due)

    def has_ended(self, event: Ended, due: int) -> None:
        """Its end is durable; its cell is due at `due`."""
        if self.head.notice is not None:
            self.node.note_due(due)  # now that it is there to be found
        self.tell_end(event)
        ended = self.node.stats.ended
        ended[event.status] = ended.get(event.status, 0) + 1

    async def stick(self, error: Failure, id: str = "") -> None:
        """Record that it cannot go on by itself."""
        await self.record(Stuck(error, id), head=self.with_status("stuck"))

    async def pause(self, why: str, detail: str) -> None:
        """Record that it waits for an operator, and stop; once, if branches ask for it together."""
        if self.journal.paused is not None:
            raise Discarded
        await self.record(Paused(why, detail), head=self.with_status("paused"))
        self.discard()
        raise Discarded

    async def drift(self, against: str) -> None:
        """Pause with a diff: the code asks for something else than is recorded."""
        if self.journal.cancel is not None:
            raise Cancelled
        await self.pause("drift", self.difference(against))

    def difference(self, against: str) -> str:
        """What speaks against going on, what is recorded, and the remedy."""
        recorded = ", ".join(
            record.id
            for record in sorted(self.journal.records.values(), key=lambda found: found.order)
        )
        return f"{against}. Recorded so far: {recorded}. {Drift.remedy}"

    # --- what the body sets beside its steps ------------------------------------------------------

    def add_state(self, state: Any, count: int, branch: str = "") -> None:
        """Keep `state` for the next record."""
        self.extras = [
            extra
            for extra in self.extras
            if not (isinstance(extra, StateSet) and extra.branch == branch)
        ]
        self.extras.append(StateSet(Raw(codec.encode(state)), count, branch))

    def add_pivot(self) -> None:
        """From the next record on the process only goes forward; in memory from now on."""
        self.journal.pivoted = True
        self.extras.append(Pivot())

    def add_deadline(self, until: int | None, count: int) -> None:
        """From the next record on the process must have ended by `until`; in memory from now on."""
        event = Deadline(until, count)
        self.journal.deadline = event
        self.extras.append(event)
        self.set_alarm()

    def add_tags(self, tags: Tags, count: int) -> None:
        """From the next record on the process has `tags`, and is found by them."""
        self.extras = [extra for extra in self.extras if not isinstance(extra, Tagged)]
        self.extras.append(Tagged(tags, count))

    def tagged(self, head: Head | None) -> Head | None:
        """`head` with the tags that the next record brings; a head for them where there is none."""
        for extra in self.extras:
            if type(extra) is Tagged:
                kept = head or self.with_status(self.head.status, self.head.waits_for)
                return msgspec.structs.replace(kept, tags=extra.tags)
        return head

    # --- the deadline -----------------------------------------------------------------------------

    def deadline(self) -> int | None:
        """When it must have ended, by the store's clock; None: whenever. Behind the pivot, and
        while it is rolled back, nothing is due any more."""
        journal, seconds = self.journal, self.definition.deadline
        if journal.pivoted or journal.compensating is not None or journal.cancel is not None:
            return None
        if journal.deadline is not None:
            return journal.deadline.until
        started = journal.times.get("", 0)
        return None if seconds is None or not started else started + round(seconds * MICROS)

    def set_alarm(self) -> None:
        """Look again when its deadline has passed."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        until = self.deadline()
        if until is not None:
            self.alarm = self.node.timers.at(until, lambda: self._ring(until))

    def _ring(self, until: int) -> None:
        if not self.gone:
            self.node.spawn(self._exceed(until))

    async def _exceed(self, until: int) -> None:
        """Its deadline has passed: from this record on it is rolled back."""
        while self.transacting is not None:
            await asyncio.shield(self.transacting)
        late = self.gone or self.shielded or self.journal.ended is not None
        if late or self.deadline() != until or self.head.status not in ("running", "waiting"):
            return
        head = self.with_status("running") if self.head.status == "waiting" else None
        await self.record(Cancel(deadline=until), head=head)
        self.cancel()


def failure_of(error: BaseException) -> Failure:
    """`error` as it is recorded."""
    if isinstance(error, StepFailed):
        return Failure(
            error.failure_type, f"{error.step}: {error.message}", error.failure_code, False
        )
    code = getattr(error, "code", "")
    retryable = bool(getattr(error, "retryable", True))
    detail = error.detail if isinstance(error, OutliveError) else str(error)
    return Failure(
        type(error).__name__, detail[:2000], code if isinstance(code, str) else "", retryable
    )


def spec_for_undo(activation: Activation, armed: Armed) -> steps.Spec:
    """What was declared about the step to undo. Raises `LookupError` if it is not declared here."""
    spec = steps.spec_named(armed.name, activation.definition.body.__module__)
    if spec is None:
        raise LookupError(f"step {armed.name} is not declared in this program")
    return spec
