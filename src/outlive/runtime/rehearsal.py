"""A journal replayed on this program's code, performing nothing: would the process go on?

The body runs as after a take-over, and what is recorded answers it. What is not recorded is where
it comes to rest: a step is not called, a wait not begun, nothing written; there is no store to
write to. When all its branches rest, or the body has ended, the rehearsal is over.

    same      everything the code asked for is recorded so, or new
    drift     what would pause it; an input or a result that can no longer be read; an undo that
              is gone; a body that raises before what is recorded, where it did not before

What is rolled back does not run its body any more: only its undos are looked for. What lies behind
the first new step is not compared, because nobody knows how the body would come there.

Not promised: that a body which touches the world outside of its steps leaves it alone here; it
does not when it is replayed after a crash either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from outlive.clock import Clock
from outlive.errors import Discarded, Drift, OutliveError
from outlive.kinds.processes import Definition, Head, Journal
from outlive.kinds.processes.difference import Difference, Verdict
from outlive.kinds.processes.vocabulary import StepDone, unpack
from outlive.model import Event, Lease, Put, Ref
from outlive.runtime.activation import Activation, spec_for_undo
from outlive.runtime.activations import Activations
from outlive.runtime.blocking import call_blocking
from outlive.runtime.body import input_of
from outlive.runtime.run import Run
from outlive.runtime.timers import Timers

if TYPE_CHECKING:
    from outlive.model import Batch, Committed
    from outlive.runtime.mail import Mail

REST_SECONDS = 10.0
"""Real seconds for one body to come to its end, or to where nothing is recorded any more."""
END_SECONDS = 1.0
QUIET_TURNS = 8
"""Turns of the event loop in which nothing moves, after which all branches are at rest."""
BUSY_TURNS = 200
"""Turns that are looked at one by one; after them a body that computes is left alone a while."""
PAUSE_SECONDS = 0.002
_NEVER = float("-inf")
_NO_LEASE = Lease(0, "", 0)


async def rehearse(
    definitions: Mapping[tuple[str, int], Definition],
    id: str,
    head: Head,
    events: Sequence[Event],
    clock: Clock,
) -> Difference:
    """Replay the journal of a process on what is declared here; see the top of this module."""

    def said(verdict: Verdict, detail: str = "", compared: int = 0) -> Difference:
        return Difference(id, head.type, head.version, head.status, verdict, detail, compared)

    made = definitions.get((head.type, head.version))
    if made is None:
        runs = ", ".join(
            sorted({f"v{version}" for name, version in definitions if name == head.type})
        )
        nobody = f"no body runs {head.type} v{head.version}; this code runs {runs or 'none of it'}"
        return said("no_worker_for_version", nobody)
    journal = Journal()
    for event in events:
        journal.apply(unpack(event.kind, event.data), event.time)
    if journal.started is None:
        return said("same")
    rehearsal = Rehearsal(made, id, head, journal, clock)
    rolls_back = journal.compensating is not None
    if rolls_back or (journal.cancel is not None and not journal.pivoted):
        detail = rehearsal.lost_undo() if journal.ended is None else ""
        return said("drift" if detail else "same", detail)
    try:
        ended = await rehearsal.play()
    finally:
        rehearsal.close()
    compared = len(journal.records) - len(journal.left_to_ask())
    if rehearsal.against:
        return said("drift", rehearsal.against, compared)
    if not ended:
        detail = f"its body came to no durable call within {REST_SECONDS:g} s"
        return said("unclear", detail, compared)
    return said("same", "", compared)


class Rehearsal(Activation):
    """An activation that lets its body replay, and holds it where it would do something new."""

    __slots__ = ("_over", "_resting", "against")

    def __init__(
        self, made: Definition, id: str, head: Head, journal: Journal, clock: Clock
    ) -> None:
        node = Activations(
            _Nowhere(),  # type: ignore[arg-type]
            _Silence(self),  # type: ignore[arg-type]
            Timers(clock),
            clock,
            "rehearsal",
            {(made.name, version): made for version in made.versions},
            0.0,
            lambda _: None,
        )
        node.trusted_until = _NEVER  # no step is called, whatever leads to it
        # As if it waited: a step that is begun then says so first, and is held there.
        waits = msgspec.structs.replace(head, status="waiting")
        super().__init__(node, made, Ref("", id), waits, _NO_LEASE, journal, loaded=True)
        self.against = ""
        """Why it would not go on; empty: nothing was found."""
        self._resting = 0
        self._over = asyncio.Event()

    # --- playing ----------------------------------------------------------------------------------

    async def play(self) -> bool:
        """Run the body until it has ended or rests everywhere; whether it did in time."""
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self._body())
        rests = loop.create_task(self._rests())
        try:
            done, _ = await asyncio.wait(
                {self.task, rests}, timeout=REST_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            rests.cancel()
            self._over.set()
            await asyncio.wait({self.task, rests}, timeout=END_SECONDS)
            self.task.cancel()
        return bool(done)

    def close(self) -> None:
        """Let go what it was played with."""
        self.node.timers.stop()
        self.node.threads.shutdown(wait=False)
        if self.node.bodies is not None:
            self.node.bodies.shutdown(wait=False)

    async def _rests(self) -> None:
        """Return when nothing of it moves any more."""
        quiet = turns = 0
        while quiet < QUIET_TURNS:
            await asyncio.sleep(0 if turns < BUSY_TURNS else PAUSE_SECONDS)
            turns += 1
            quiet = quiet + 1 if self._resting and self._resting >= self.active else 0

    async def _body(self) -> None:
        made, started = self.definition, self.journal.started
        assert started is not None
        try:
            value = await input_of(self, started.input)
            run, args = Run(self), (value,) if made.takes_input else ()
            if made.is_async:
                await made.body(run, *args)
            else:
                await call_blocking(self.node, made.body, run, args)
            if against := self.journal.forgotten():
                await self.drift(against)
        except (Discarded, asyncio.CancelledError):
            pass
        except Drift as error:
            self.against = self.against or self.difference(error.detail)
        except Exception as error:
            if not self.against and not self._over.is_set():
                self.against = self._raised(error)
        except BaseException as error:  # SystemExit in a body is its own affair, not this program's
            self.against = self.against or self._raised(error)

    def _raised(self, error: BaseException) -> str:
        """What speaks against a body that raises `error` here."""
        journal = self.journal
        detail = error.detail if isinstance(error, OutliveError) else str(error)
        what = f"the code raises {type(error).__name__}: {detail[:500]}"
        if journal.ended is not None and journal.ended.status == "done":
            return self.difference(f"it is recorded as done; {what}")
        left = journal.left_to_ask() - journal.closed
        behind = [record for record in journal.records.values() if record.id in left]
        if not behind:
            return ""  # nothing was recorded behind it: it is how the process goes on
        first = min(behind, key=lambda record: record.order)
        return self.difference(f"{first.id} is recorded next; {what}")

    def lost_undo(self) -> str:
        """What speaks against rolling it back: an undo that is not there any more."""
        for armed in self.journal.armed():
            try:
                spec_for_undo(self, armed).undo()
            except LookupError as error:
                return f"{armed.id} is to be undone, and cannot be: {error}"
        return ""

    # --- being held -------------------------------------------------------------------------------

    async def hold(self) -> None:
        """What asks here would do something that is not recorded. Raises `Discarded`."""
        self._resting += 1
        try:
            await self._over.wait()
        finally:
            self._resting -= 1
        raise Discarded

    async def record(
        self,
        *events: Any,
        head: Head | None = None,
        due: int | None = None,
        puts: tuple[Put, ...] = (),
        mail: Mail | None = None,
    ) -> int:
        await self.hold()
        raise AssertionError("what is held is not let go")

    def append_step(self, done: StepDone) -> None:
        return None

    async def park(self, id: str, until: int | None, wake: Callable[[], Any] | None = None) -> None:
        if id not in self.settled:
            await self.hold()

    async def drift(self, against: str) -> None:
        self.against = self.against or self.difference(against)
        self._over.set()
        raise Discarded

    def set_alarm(self) -> None:
        """No deadline passes here."""


class _Silence:
    """The committer of a rehearsal: nothing is handed over, and nobody is answered."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal
        self.stalled = None

    def submit(self, batch: Batch, *, patient: bool = False) -> asyncio.Future[Committed]:
        return asyncio.ensure_future(self._held())

    def transact(self, work: Any, limit_seconds: float) -> asyncio.Future[Committed]:
        return asyncio.ensure_future(self._held())

    async def _held(self) -> Committed:
        await self._rehearsal.hold()
        raise AssertionError("what is held is not let go")


class _Nowhere:
    """The store of a rehearsal."""

    shards = 1
