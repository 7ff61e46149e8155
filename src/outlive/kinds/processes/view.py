"""The journal as people read it: status, past states, and every step with its attempts.

Folded from durable events only, so that a view never says more than would survive. One thing is
inferred: when another node went on after a crash while the process was running, whatever step is
recorded next had been interrupted, and the view shows that attempt with its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Raw, Struct

from outlive.codec import NULL
from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.definition import Definition
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import Failure, Head, unpack
from outlive.model import Cell, Event


class PastState(Struct, frozen=True, omit_defaults=True):
    """A status the process has had, since when, and why."""

    status: str
    at: int
    why: str = ""


class AttemptView(Struct, frozen=True):
    """One try of a step: `interrupted` when its node died during it."""

    number: int
    began: int
    ended: int | None
    outcome: str
    error: Failure | None = None
    node: str = ""


class StepView(Struct, frozen=True):
    """One durable point of a process: a step, transaction, wait, sleep or undo."""

    name: str
    kind: str
    began: int
    ended: int | None
    outcome: str
    attempts: tuple[AttemptView, ...] = ()
    error: Failure | None = None


class View(Struct, frozen=True):
    """Everything there is to say about a process at position `seq` of its journal."""

    id: str
    type: str
    version: int
    status: str
    seq: int
    data: Raw
    result: Raw | None
    failure: Failure | None
    started: int
    changed: int
    ended: int | None
    waits_for: str
    due: int | None
    history: tuple[PastState, ...]
    steps: tuple[StepView, ...]
    node: str
    epoch: int
    takeovers: int
    cancel_requested: bool
    tags: dict[str, str] = {}

    @property
    def final(self) -> bool:
        return self.status in words.FINAL


class Summary(Struct, frozen=True):
    """One line of a list of processes."""

    id: str
    type: str
    version: int
    status: str
    started: int
    changed: int
    waits_for: str
    due: int | None
    tags: dict[str, str] = {}


class Begun(Struct, frozen=True):
    """The answer to a start: `replayed` when the key had been used for the same request before."""

    id: str
    seq: int
    replayed: bool
    time: int = 0
    """When it was started by this call, on the store's clock; 0 when it is queued or replayed."""
    data: Raw = NULL
    """What it was started with, if this call started it."""
    tags: Tags = ()


class Node(Struct, frozen=True):
    """One process of the operating system that serves the store."""

    id: str
    host: str
    pid: int
    since: int
    expires: int
    phase: str
    shards: int
    runs: tuple[str, ...]


class Stats(Struct):
    """Counters of one node since it started; seconds and counts."""

    started: int = 0
    ended: dict[str, int] = {}
    steps: int = 0
    attempts_failed: int = 0
    takeovers: int = 0
    crashes: int = 0
    commits: int = 0
    batches: int = 0
    refused: int = 0
    fenced: int = 0
    active: int = 0
    shards: int = 0
    commit_seconds: float = 0.0


class _Open(Struct):
    """A step that is being folded."""

    name: str
    kind: str
    began: int
    ended: int | None = None
    outcome: str = "running"
    attempts: list[AttemptView] = []
    error: Failure | None = None


class _Fold:
    def __init__(self, head: Head) -> None:
        self.head = head
        self.status = "queued"
        self.history: list[PastState] = []
        self.steps: dict[str, _Open] = {}
        self.order: list[_Open] = []
        self.state: Raw | None = None
        self.input = head.input
        self.result: Raw | None = None
        self.failure: Failure | None = None
        self.node = ""
        self.epoch = 0
        self.takeovers = 0
        self.last = head.started
        self.ended: int | None = None
        self.waits_for = ""
        self.due: int | None = None
        self.cancelled = False
        self.tags = dict(head.tags)
        self.interrupted: AttemptView | None = None
        self.before = "running"

    def become(self, status: str, at: int, why: str = "") -> None:
        self.status = status
        self.waits_for, self.due = "", None
        self.history.append(PastState(status, at, why))

    def step(self, id: str, name: str, kind: str, began: int) -> _Open:
        found = self.steps.get(id)
        if found is None or (found.outcome in ("done", "failed") and kind != found.kind):
            found = self.steps[id] = _Open(name, kind, began)
            self.order.append(found)
        if self.interrupted is not None:
            lost, self.interrupted = self.interrupted, None
            found.attempts.append(lost)
            found.began = min(found.began, lost.began)
        return found

    def take(self, kind: str, event: Any, at: int) -> None:
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, event, at)
        self.last = at


def _started(fold: _Fold, event: words.Started, at: int) -> None:
    fold.input, fold.node = event.input, event.node
    fold.tags = dict(event.tags)
    fold.become("running", at)


def _taken(fold: _Fold, event: words.Taken, at: int) -> None:
    lost, fold.node, fold.epoch = fold.node, event.node, event.epoch
    if fold.status == "no_worker_for_version":
        fold.become(fold.before, at, f"{event.node} runs this version")
        return
    if not event.crash:
        fold.history.append(PastState(fold.status, at, f"handed over to {event.node}"))
        return
    fold.takeovers += 1
    if fold.status in ("running", "compensating"):
        fold.interrupted = AttemptView(1, fold.last, at, "interrupted", None, lost)
    fold.history.append(PastState(fold.status, at, f"taken over by {event.node} after a crash"))


def _step(fold: _Fold, event: words.StepDone, at: int) -> None:
    step = fold.step(event.id, event.id, "transact" if event.transact else "step", event.began)
    outcome = "done" if event.error is None else "failed"
    if event.error is None or not step.attempts or step.attempts[-1].number < event.attempt:
        step.attempts.append(
            AttemptView(event.attempt, event.began, at, outcome, event.error, fold.node)
        )
    step.ended, step.outcome, step.error = at, outcome, event.error


def _attempt(fold: _Fold, event: words.AttemptFailed, at: int) -> None:
    step = fold.step(event.id, event.id, "step", event.began)
    step.attempts.append(
        AttemptView(event.number, event.began, at, "failed", event.error, fold.node)
    )
    step.error = event.error


def _wait(fold: _Fold, event: words.WaitBegan, at: int) -> None:
    step = fold.step(event.id, event.id, "wait", at)
    if event.signal is not None:
        step.ended, step.outcome = at, "done"
        return
    step.outcome = "waiting"
    fold.become("waiting", at, f"waits for signal {event.name}")
    fold.waits_for, fold.due = event.name, event.until


def _waited(fold: _Fold, event: words.WaitDone, at: int) -> None:
    step = fold.step(event.id, event.id, "wait", at)
    step.ended, step.outcome = at, "done" if event.signal is not None else "timeout"
    why = "signal came" if event.signal is not None else "no signal came in time"
    fold.become("running", at, why)


def _sleep(fold: _Fold, event: words.SleepBegan, at: int) -> None:
    fold.step(event.id, event.id, "sleep", at).outcome = "waiting"
    fold.become("waiting", at, "sleeps")
    fold.due = event.until


def _woke(fold: _Fold, event: words.Woke, at: int) -> None:
    step = fold.step(event.id, event.id, "sleep", at)
    step.ended, step.outcome = at, "done"
    fold.become("running", at, "woke")


def _decided(fold: _Fold, event: words.Decided, at: int) -> None:
    step = fold.step(event.id, event.id, event.what, at)
    branch = event.branch.rstrip("/")
    step.ended, step.error = at, event.error
    step.outcome = "done" if event.error is None else "failed"
    if event.what == "scope":
        step.outcome = "undone"
    elif branch:
        step.name = f"{event.id}: {branch} {'won' if event.error is None else 'failed'}"
    for id in (*event.waits, *(armed.id for armed in event.unknown)):
        if (open_one := fold.steps.get(id)) is not None and open_one.ended is None:
            open_one.outcome, open_one.ended = "abandoned", at
    if fold.status == "waiting":
        fold.become("running", at, words.decision(event))


def _state(fold: _Fold, event: words.StateSet, at: int) -> None:
    fold.state = event.state


def _tagged(fold: _Fold, event: words.Tagged, at: int) -> None:
    fold.tags = dict(event.tags)


def _cancel(fold: _Fold, event: words.Cancel, at: int) -> None:
    if event.deadline is not None:
        fold.history.append(PastState(fold.status, at, "its deadline has passed"))
        return
    fold.cancelled = True
    by = f" by {event.who}" if event.who else ""
    fold.history.append(
        PastState(fold.status, at, f"cancel requested{by}: {event.reason}".rstrip(": "))
    )


def _compensating(fold: _Fold, event: words.Compensating, at: int) -> None:
    fold.failure = event.error
    fold.become("compensating", at, f"{event.error.type}: {event.error.message}")
    for step in fold.order:
        if step.outcome in ("running", "waiting"):
            step.outcome, step.ended = "abandoned", at


def _undo_failed(fold: _Fold, event: words.UndoFailed, at: int) -> None:
    step = fold.step(f"undo {event.id}", event.id, "undo", event.began)
    step.attempts.append(
        AttemptView(event.number, event.began, at, "failed", event.error, fold.node)
    )
    step.error = event.error


def _undone(fold: _Fold, event: words.Undone, at: int) -> None:
    step = fold.step(f"undo {event.id}", event.id, "undo", event.began)
    step.attempts.append(AttemptView(event.attempt, event.began, at, "done", None, fold.node))
    step.ended, step.outcome, step.error = at, "undone", None


def _stuck(fold: _Fold, event: words.Stuck, at: int) -> None:
    fold.failure = event.error
    fold.become("stuck", at, f"{event.error.type}: {event.error.message}")


def _paused(fold: _Fold, event: words.Paused, at: int) -> None:
    fold.failure = Failure(event.why, event.detail, retryable=False)
    fold.become("paused", at, f"{event.why}: {event.detail}".rstrip(": "))


def _resumed(fold: _Fold, event: words.Resumed, at: int) -> None:
    undoing = any(past.status == "compensating" for past in fold.history)
    by = f" by {event.who}" if event.who else ""
    if not undoing:
        fold.failure = None
    fold.become("compensating" if undoing else "running", at, f"retried{by}")


def _stranded(fold: _Fold, event: words.Stranded, at: int) -> None:
    fold.before = fold.status
    why = f"{event.node} does not run {fold.head.type} version {fold.head.version}"
    fold.become("no_worker_for_version", at, why)


def _ended(fold: _Fold, event: words.Ended, at: int) -> None:
    fold.result = event.result if event.status == "done" else None
    fold.failure = event.error or (fold.failure if event.status != "done" else None)
    fold.ended = at
    fold.become(event.status, at)


_HANDLERS: dict[str, Any] = {
    "started": _started,
    "taken": _taken,
    "step": _step,
    "attempt": _attempt,
    "wait": _wait,
    "waited": _waited,
    "sleep": _sleep,
    "woke": _woke,
    "decided": _decided,
    "state": _state,
    "tagged": _tagged,
    "cancel": _cancel,
    "compensating": _compensating,
    "undo_failed": _undo_failed,
    "undone": _undone,
    "stuck": _stuck,
    "paused": _paused,
    "resumed": _resumed,
    "stranded": _stranded,
    "ended": _ended,
}


def view_of(id: str, head: Head, events: Sequence[Event]) -> View:
    """The view of a process from its cell's value and its journal."""
    fold = _Fold(head)
    for event in events:
        fold.take(event.kind, unpack(event.kind, event.data), event.time)
    if not fold.history:
        fold.history.append(PastState("queued", head.started))
    return View(
        id=id,
        type=head.type,
        version=head.version,
        status=fold.status,
        seq=len(events),
        data=fold.state if fold.state is not None else fold.input,
        result=fold.result,
        failure=fold.failure,
        started=events[0].time if events else head.started,
        changed=events[-1].time if events else head.started,
        ended=fold.ended,
        waits_for=fold.waits_for,
        due=fold.due,
        history=tuple(fold.history),
        steps=tuple(
            StepView(
                step.name,
                step.kind,
                step.began,
                step.ended,
                step.outcome,
                tuple(step.attempts),
                step.error,
            )
            for step in fold.order
        ),
        node=fold.node,
        epoch=fold.epoch,
        takeovers=fold.takeovers,
        cancel_requested=fold.cancelled,
        tags=fold.tags,
    )


def fresh_view(id: str, made: Definition, data: Raw, node: str, time: int, tags: Tags = ()) -> View:
    """The view of a process whose start is its only event."""
    return View(
        id=id,
        type=made.name,
        version=made.version,
        status="running",
        seq=1,
        data=data,
        result=None,
        failure=None,
        started=time,
        changed=time,
        ended=None,
        waits_for="",
        due=None,
        history=(PastState("running", time),),
        steps=(),
        node=node,
        epoch=0,
        takeovers=0,
        cancel_requested=False,
        tags=dict(tags),
    )


def summary_of(cell: Cell) -> Summary:
    """One line about the process in `cell`."""
    head = words.read_head(cell.value)
    due = None if head.status in words.FINAL else cell.due
    return Summary(
        cell.key,
        head.type,
        head.version,
        head.status,
        head.started,
        head.changed or head.started,
        head.waits_for,
        due,
        dict(head.tags),
    )
