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

from collections.abc import Collection
from typing import Any

from msgspec import Raw

from outlive.kinds.processes.vocabulary import (
    Armed,
    AttemptFailed,
    Cancel,
    Compensating,
    Deadline,
    Decided,
    Ended,
    Failure,
    Paused,
    Pivot,
    Resumed,
    Signal,
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

Record = StepDone | WaitBegan | SleepBegan | Decided
UNKNOWN = Failure("Unknown", "it was under way when its branch was ended", retryable=False)
"""What is recorded of a step whose branch did not wait for it."""


class Journal:
    """What has happened to one process, ready to be asked."""

    __slots__ = (
        "attempts",
        "cancel",
        "closed",
        "compensating",
        "consumed",
        "crashes",
        "deadline",
        "deadlines",
        "ended",
        "keys",
        "last_order",
        "next_n",
        "paused",
        "pivoted",
        "places",
        "records",
        "signals",
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
            case Started():
                self.started = event
                self.times[""] = time
            case _:
                self._apply_ending(event)

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
        for id in event.waits:
            self.closed.add(id)
            if isinstance(self.records[id], WaitBegan):
                self.waited[id] = WaitDone(id)
            else:
                self.woken.add(id)

    def _undecide(self, failed: str) -> None:
        """The step `failed` is tried again: what was decided because it had failed is open
        again."""
        for record in [found for found in self.records.values() if isinstance(found, Decided)]:
            if not (record.branch and failed.startswith(record.branch)) or record.error is None:
                continue
            for id in (record.id, *(armed.id for armed in record.unknown)):
                self.records.pop(id, None)
                self.closed.discard(id)
            for id in record.waits:
                self.closed.discard(id)
                self.waited.pop(id, None)
                self.woken.discard(id)

    def _apply_ending(self, event: Any) -> None:
        match event:
            case Cancel():
                self.cancel = self.cancel or event
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
                self._resume()
            case Ended():
                self.ended = event
            case Tagged():
                self.tagged = event

    def _resume(self) -> None:
        """An operator asked to go on: what had given up is tried afresh."""
        if self.stuck is not None and self.compensating is None:
            self.records.pop(self.stuck.id, None)
            self._undecide(self.stuck.id)
        self.stuck, self.paused, self.crashes = None, None, 0
        self.undo_attempts.clear()
        self.attempts.clear()

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
        if isinstance(record, StepDone) and record.args != args and id not in self.closed:
            return record, f"{id} is recorded with arguments {record.args}, the code gives {args}"
        return record, ""

    def left_to_ask(self) -> set[str]:
        """What was recorded before this replay and has not been asked for by it."""
        if self.unasked is None:
            self.unasked = set(self.records)
        return self.unasked

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
            if isinstance(record, StepDone) and record.undo and record.id in left:
                return f"{record.id} is recorded and can be undone, but the code did not ask for it"
        return ""

    def armed(self) -> list[Armed]:
        """The undos still to be called, in the order they must be called: the last completed step
        first."""
        found = [
            Armed(
                record.id,
                record.name,
                record.undo,
                record.given,
                None if record.error is not None else record.result,
                record.transact,
            )
            for record in self.records.values()
            if isinstance(record, StepDone) and record.undo
        ]
        unknown = self.compensating.unknown if self.compensating is not None else ()
        return [armed for armed in reversed([*found, *unknown]) if armed.id not in self.undone]

    def outcome(self) -> str:
        """The final status once every undo is done."""
        cancelled = self.compensating is not None and self.compensating.cancelled
        return "cancelled" if cancelled else "rolled_back"

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
        StepDone: "step", WaitBegan: "wait", SleepBegan: "sleep", Decided: "decision"
    }[kind]  # fmt: skip
