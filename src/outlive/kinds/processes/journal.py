"""The journal as replay and decisions need it: a pure fold over the events of one process.

Identity first: a step is found by its id, not by its place, so a step inserted into the code does
not disturb what is recorded behind it. Order and arguments are compared as well, so that real drift
is seen:

    same id, other arguments                                    drift
    same id, asked for out of order                             drift
    same id, other kind (step, wait …)                          drift
    the next recorded step is not declared any more, and
        the code asks for a new one (a rename?)                 drift
    the body ends, and a recorded step with an undo was
        never asked for                                         drift
    a recorded step without an undo is not asked for any more   accepted: it was removed

Branches of a body interleave by chance, so each has an order of its own, which begins where its
body was when it was made. What was done by branches that have lost (`Decided`) is not asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from outlive.kinds.processes.family import Family
from outlive.kinds.processes.heard import Heard
from outlive.kinds.processes.vocabulary import (
    Admitted,
    Again,
    Answered,
    Armed,
    Asked,
    AttemptFailed,
    CallbackMade,
    CalledBack,
    Cancel,
    Carried,
    ChildEnded,
    ChildStarted,
    Compensating,
    Deadline,
    Decided,
    Ended,
    Failure,
    Forked,
    Hastened,
    Paused,
    Pivot,
    Published,
    Resumed,
    Signal,
    Skipped,
    SleepBegan,
    Started,
    StateSet,
    StepDone,
    Stuck,
    Tagged,
    Taken,
    UndoFailed,
    Undone,
    WaitBegan,
    WaitDone,
    Woke,
)

Record = StepDone | WaitBegan | SleepBegan | Decided | CallbackMade | ChildStarted | Published
UNKNOWN = Failure("Unknown", "it was under way when its branch was ended", retryable=False)
"""What is recorded of a step whose branch did not wait for it."""
_NONE: Mapping[str, Any] = MappingProxyType({})


_WITH_ARGS = (StepDone, ChildStarted, Published)


class Journal:
    """What has happened to one process, ready to be asked."""

    __slots__ = (
        "attempts",
        "begun",
        "cancel",
        "carried",
        "closed",
        "compensating",
        "consumed",
        "crashes",
        "deadline",
        "deadlines",
        "ended",
        "family",
        "forked",
        "heard",
        "keys",
        "last_order",
        "next_n",
        "origins",
        "paused",
        "pivoted",
        "places",
        "records",
        "signals",
        "skips",
        "started",
        "state",
        "states",
        "stuck",
        "tagged",
        "times",
        "unasked",
        "undo_attempts",
        "undone",
        "waited",
        "woken",
    )

    def __init__(self) -> None:
        self.next_n = 0
        self.times: dict[str, int] = {}
        self.started: Started | None = None
        self.begun = False
        """Whether its body was ever to run: what it had begun may be more than is recorded."""
        self.records: dict[str, Record] = {}
        self.unasked: set[str] | None = None
        """What was recorded before this replay and not asked for by it; None: nothing was asked."""
        self.last_order = -1
        self.places: dict[object, int] = {}
        """Where each branch of the body is: branches interleave by chance, so each has an order."""
        self.attempts: dict[str, AttemptFailed] = {}
        self.waited: dict[str, WaitDone] = {}
        self.woken: set[str] = set()
        self.signals: dict[int, Signal] = {}
        self.consumed: set[int] = set()
        self.keys: set[str] = set()
        self.heard: Heard | None = None
        """Updates and callbacks; None: there were none."""
        self.carried: tuple[str, ...] = ()
        """Those of `keys` that come from earlier eras."""
        self.closed: set[str] = set()
        """Steps, waits and sleeps that were under way when their branch or scope was ended: nobody
        has seen an outcome of them, and nobody will."""
        self.state: Raw | None = None
        self.states: dict[str, int] = {}
        """How often the body (under "") and each branch had set the state."""
        self.pivoted = False
        self.deadline: Deadline | None = None
        """What the body has set last; None: it has set nothing."""
        self.deadlines = 0
        self.tagged: Tagged | None = None
        """What tags the body has set last; None: it has set none."""
        self.cancel: Cancel | None = None
        self.compensating: Compensating | None = None
        self.undo_attempts: dict[str, UndoFailed] = {}
        self.undone: set[str] = set()
        self.stuck: Stuck | None = None
        self.paused: Paused | None = None
        self.ended: Ended | None = None
        self.crashes = 0
        self.family: Family | None = None
        """The children it has started; None while it has none."""
        self.skips: Mapping[str, Skipped] = _NONE
        """Steps that an operator has declared as settled."""
        self.forked: Forked | None = None
        """Where it has its beginning from, if that was another process's."""
        self.origins: Mapping[str, str] = _NONE
        """The streams of the processes that have performed what this one began with."""

    def apply(self, event: Any, time: int) -> None:
        """Take in the next event; `time` is its commit's, 0 while that is not known."""
        n = self.next_n
        if type(event) is StepDone:
            self.apply_step(event)
            if time:
                self.times[event.id] = time
            return
        self.next_n = n + 1
        if time and (id := getattr(event, "id", "")):
            self.times[id] = time
        match event:
            case Started():  # these two first: every process has them, and each case costs
                self.started = event
                self.begun = not event.held
                self.times[""] = time
            case Ended():
                self.ended = event
            case AttemptFailed():
                self.attempts[event.id] = event
                self.crashes = 0
            case WaitBegan():
                self.records[event.id] = event
                self.crashes = 0
                if event.signal is not None:
                    self._consume(event.signal)
                    self.waited[event.id] = WaitDone(event.id, event.signal)
            case WaitDone():
                self.waited[event.id] = event
                if event.signal is not None:
                    self._consume(event.signal)
            case Signal():
                self.signals[n] = event
                if event.key:
                    self.keys.add(event.key)
            case SleepBegan():
                self.records[event.id] = event
                self.crashes = 0
            case Woke():
                self.woken.add(event.id)
            case Decided():
                self._decide(event)
            case StateSet():
                self.state = event.state
                self.states[event.branch] = event.count
            case Deadline():
                self.deadline, self.deadlines = event, event.count
            case Pivot():
                self.pivoted = True
            case Taken():
                self.crashes = self.crashes + 1 if event.crash else 0
            case Asked() | Answered() | CallbackMade() | CalledBack():
                self._hear(n, event)
            case ChildStarted() | Published():
                self._reach(event)
            case ChildEnded():
                self._child_ended(event, time)
            case Admitted():
                self.begun = True
                if not self.records:  # its time is that of its begin
                    self.times[""] = time
            case _:
                self._apply_ending(event)

    def _hear(self, n: int, event: Any) -> None:
        """An update or a callback: what is told by it waits among the signals to be taken."""
        if self.heard is None:
            self.heard = Heard()
        signal = self.heard.apply(n, event)
        if signal is not None:
            self.signals[n] = signal
        elif isinstance(event, CallbackMade):
            self.records[event.id] = event
            self.crashes = 0

    def apply_step(self, done: StepDone) -> None:
        """The same for a step's record: most events are."""
        self.next_n += 1
        self.records[done.id] = done
        self.attempts.pop(done.id, None)
        self.crashes = 0

    def _decide(self, event: Decided) -> None:
        """A part of the body has come to its end: what was open in it is closed."""
        self.records[event.id] = event
        self.crashes = 0
        for armed in event.unknown:
            self.closed.add(armed.id)
            self.records[armed.id] = StepDone(
                armed.id, armed.name, event.order, "", 0,
                error=UNKNOWN, undo=armed.undo, given=armed.given, transact=armed.transact,
            )  # fmt: skip
        if self.family is not None and event.children:
            self.closed.update(self.family.let_go_of(event.children))
        for id in event.waits:
            self.closed.add(id)
            if isinstance(self.records[id], WaitBegan):
                self.waited[id] = WaitDone(id)
            else:
                self.woken.add(id)

    def _reach(self, event: ChildStarted | Published) -> None:
        """Another process was started by this one, or may be by what it has published."""
        self.records[event.id] = event
        self.crashes = 0
        if isinstance(event, ChildStarted):
            self.family = self.family or Family()
            self.family.start(event)

    def _child_ended(self, event: ChildEnded, time: int) -> None:
        """A child has ended: if it can be undone, its turn is that of its end."""
        if self.family is None:
            return
        self.crashes = 0
        started = self.family.end(event)
        if started.undo and started.id in self.records:
            self.records[started.id] = self.records.pop(started.id)
        if time:
            self.times[event.child] = time

    def _undecide(self, failed: str) -> None:
        """The step `failed` is tried again: what was decided because it had failed is open
        again."""
        for record in [found for found in self.records.values() if isinstance(found, Decided)]:
            if not (record.branch and failed.startswith(record.branch)) or record.error is None:
                continue
            for id in (record.id, *(armed.id for armed in record.unknown)):
                self.records.pop(id, None)
                self.closed.discard(id)
            if self.family is not None:
                for child in record.children:
                    self.records.pop(self.family.children[child].id, None)
            for id in record.waits:
                self.closed.discard(id)
                self.waited.pop(id, None)
                self.woken.discard(id)

    def _apply_ending(self, event: Any) -> None:
        match event:
            case Cancel():
                self.cancel = self.cancel or event
                self.paused = None
                self.undone.update(event.kept)
            case Compensating():
                self.compensating = event
            case UndoFailed():
                self.undo_attempts[event.id] = event
            case Undone():
                self.undone.add(event.id)
                self.crashes = 0
            case Stuck():
                self.stuck = event
            case Paused():
                self.paused = event
            case Resumed():
                self._resume(event)
            case Hastened():
                self._hasten(event)
            case Skipped():
                self.skips = {**self.skips, event.id: event}
            case Forked():
                self.forked = event
                self.origins = {**dict.fromkeys(self.records, event.stream), **self.origins}
                self.times.update(event.times)
            case Carried():
                self.carried = event.keys
                self.keys.update(event.keys)
            case Again():
                self.ended = Ended("again")
            case Tagged():
                self.tagged = event

    def _resume(self, event: Resumed) -> None:
        """An operator asked to go on: what had given up is tried afresh, unless all is `kept`."""
        if self.stuck is not None and self.compensating is None:
            self.records.pop(self.stuck.id, None)
            self._undecide(self.stuck.id)
            stuck = self.stuck.id
            self.skips = {id: skip for id, skip in self.skips.items() if id != stuck}
        self.stuck, self.paused, self.crashes = None, None, 0
        if not event.kept:
            self.undo_attempts.clear()
            self.attempts.clear()

    def _hasten(self, event: Hastened) -> None:
        """What was to be tried again later is due now; how often it was tried stays."""
        for id in event.steps:
            if id in self.attempts:
                self.attempts[id] = replace(self.attempts[id], again_at=0)
        for id in event.undos:
            if id in self.undo_attempts:
                self.undo_attempts[id] = replace(self.undo_attempts[id], again_at=0)

    def _consume(self, n: int) -> None:
        self.consumed.add(n)

    # --- asking -----------------------------------------------------------------------------------

    def free_signal(self, name: str) -> int | None:
        """The `n` of the earliest signal `name` that no wait has taken."""
        for n, signal in self.signals.items():
            if signal.name == name and n not in self.consumed:
                return n
        return None

    def waiting_signals(self) -> int:
        """How many signals no wait has taken."""
        return len(self.signals) - len(self.consumed)

    def open_wait(self, name: str) -> WaitBegan | None:
        """The wait for `name` that is not over."""
        for record in self.records.values():
            waits = isinstance(record, WaitBegan) and record.name == name
            if waits and record.id not in self.waited:
                return record  # type: ignore[return-value]
        return None

    def timed_out(self) -> list[WaitBegan]:
        """The waits whose time was up."""
        return [
            record
            for record in self.records.values()
            if isinstance(record, WaitBegan)
            and (waited := self.waited.get(record.id)) is not None
            and waited.signal is None
        ]

    def waits_for(self) -> str:
        """The signal of the first wait that is not over; empty when there is none."""
        for record in self.records.values():
            if isinstance(record, WaitBegan) and record.id not in self.waited:
                return record.name
        return ""

    def dues(self) -> list[int]:
        """When each wait and sleep that is not over ends by itself."""
        return [
            record.until
            for record in self.records.values()
            if isinstance(record, (WaitBegan, SleepBegan))
            and record.until is not None
            and record.id not in self.waited
            and record.id not in self.woken
        ]

    def find(
        self, id: str, kind: type[Record], args: str = "", branch: object = None
    ) -> tuple[Any, str]:
        """The record of `id`, and what speaks against it being what the code asks for (empty:
        nothing)."""
        record = self.records.get(id)
        if record is None:
            return None, ""
        self.left_to_ask().discard(id)
        if not isinstance(record, kind):
            return (
                record,
                f"{id} is recorded as a {_noun(record)}, the code asks for a {_word(kind)}",
            )
        if record.order < self.places.get(branch, -1):
            return (
                record,
                f"{id} is recorded as number {record.order + 1}, the code asks for it later",
            )
        self._arrive(record.order, branch)
        if not isinstance(record, _WITH_ARGS):
            return record, ""
        if record.args != args and id not in self.closed and id not in self.origins:
            return record, f"{id} is recorded with arguments {record.args}, the code gives {args}"
        return record, ""

    def left_to_ask(self) -> set[str]:
        """What was recorded before this replay and has not been asked for by it."""
        if self.unasked is None:
            self.unasked = set(self.records)
        return self.unasked

    def drawn_from(self, path: str) -> str:
        """The stream of the process that has done what is asked for next in the branch `path`;
        empty when that is this one."""
        left = [id for id in self.left_to_ask() & self.origins.keys() if id.startswith(path)]
        return self.origins[min(left, key=lambda id: self.records[id].order)] if left else ""

    def renamed(
        self, id: str, known: Collection[str], branch: object = None, path: str = ""
    ) -> str:
        """What speaks against running `id` as a new step: the next recorded step (of this branch,
        whose path is `path`) is not in the code any more."""
        left = self.left_to_ask()
        if not left:
            return ""
        place = self.places.get(branch, -1)
        behind = [self.records[one] for one in left if one.startswith(path)]
        found = min(
            (record for record in behind if record.order > place),
            key=lambda record: record.order,
            default=None,
        )
        if isinstance(found, StepDone) and found.name not in known:
            return (
                f"{found.id} is recorded next and no step of that name is declared; "
                f"the code asks for {id}"
            )
        return ""

    def ask(self, id: str, branch: object = None) -> int:
        """The order of the new record `id`: behind the last one asked for, or beside it when others
        are recorded behind."""
        behind = bool(self.left_to_ask())
        order = self.places.get(branch, -1) if behind else self.last_order + 1
        self._arrive(order, branch)
        return order

    def fork(self, branch: object, of: object) -> None:
        """A branch is made where the branch `of` is: what it asks for comes behind that."""
        if of in self.places:
            self.places[branch] = self.places[of]

    def join(self, branches: Collection[object], into: object) -> None:
        """Branches have ended: what is asked for behind them comes behind all that they did."""
        places = [self.places.pop(branch, -1) for branch in branches]
        self.places[into] = max([self.places.get(into, -1), *places])

    def close(self, path: str) -> None:
        """What was done in the branch `path` is not asked for any more: others have decided."""
        left = self.left_to_ask()
        left.difference_update([id for id in left if id.startswith(path)])

    def _arrive(self, order: int, branch: object) -> None:
        self.places[branch] = order
        self.last_order = max(self.last_order, order)

    def forgotten(self) -> str:
        """What speaks against the body being at its end: a recorded step with an undo was never
        asked for."""
        left = self.left_to_ask() - self.closed
        for record in self.records.values():
            if record.id not in left:
                continue
            if isinstance(record, StepDone) and record.undo:
                return f"{record.id} is recorded and can be undone, but the code did not ask for it"
            if isinstance(record, ChildStarted) and not record.detached:
                return f"{record.id} is recorded ({record.child}), but the code did not ask for it"
        return ""

    def armed(self) -> list[Armed]:
        """The undos still to be called, in the order they must be called: the last completed step
        first."""
        found = []
        for record in self.records.values():
            if isinstance(record, StepDone) and record.undo:
                result = None if record.error is not None else record.result
                found.append(
                    Armed(
                        record.id, record.name, record.undo, record.given, result, record.transact
                    )
                )
            elif isinstance(record, ChildStarted) and self.family is not None:
                found += self.family.armed(record)
        unknown = self.compensating.unknown if self.compensating is not None else ()
        return [armed for armed in reversed([*found, *unknown]) if armed.id not in self.undone]

    def outcome(self) -> str:
        """The final status once every undo is done."""
        cancelled = self.compensating is not None and self.compensating.cancelled
        return "cancelled" if cancelled else "rolled_back"

    def between_attempts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The steps, and the undos, of which the last attempt has failed and the next is to
        come."""
        steps = tuple(id for id in self.attempts if id not in self.records)
        undos = tuple(id for id in self.undo_attempts if id not in self.undone)
        return steps, undos

    def failure(self) -> Failure | None:
        """Why the process is not going forward any more, if it is not."""
        for found in (self.ended, self.stuck, self.compensating):
            if found is not None and found.error is not None:
                return found.error
        return None


def _noun(record: Record) -> str:
    return _word(type(record))


def _word(kind: type[Record]) -> str:
    return {
        StepDone: "step", WaitBegan: "wait", SleepBegan: "sleep", Decided: "decision",
        CallbackMade: "callback",
        ChildStarted: "start of a child", Published: "published event",
    }[kind]  # fmt: skip
