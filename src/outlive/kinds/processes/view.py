"""The journal as people read it: status, past states, and every step with its attempts.

Folded from durable events only, so that a view never says more than would survive. One thing is
inferred: when another node went on after a crash while the process was running, whatever step is
recorded next had been interrupted, and the view shows that attempt with its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import replace

from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.cells import Head, Notice, read_head
from outlive.kinds.processes.definition import Definition
from outlive.kinds.processes.reports import (
    AttemptView,
    ChildView,
    PastState,
    StepView,
    Summary,
    View,
)
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import Failure, unpack
from outlive.kinds.processes.webhooks import NoticeView, masked
from outlive.model import Cell, Event


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
        self.children: dict[str, ChildView] = {}
        self.waited: tuple[str, int | None] = "", None
        self.forked_from = head.fork.id if head.fork is not None else ""
        self.forks = list(head.forks)

    def become(self, status: str, at: int, why: str = "") -> None:
        self.status = status
        self.waits_for, self.due = "", None
        self.history.append(PastState(status, at, why))

    def note(self, at: int, what: str, who: str, why: str) -> None:
        """Something was done from outside that changes no status."""
        self.history.append(PastState(self.status, at, words.told(what, who, why)))

    def step(self, id: str, name: str, kind: str, began: int, number: int = 1) -> _Open:
        """The step `id`; `number`: of the attempt that is told, and so of one cut short before."""
        found = self.steps.get(id)
        if found is None or (found.outcome in ("done", "failed") and kind != found.kind):
            found = self.steps[id] = _Open(name, kind, began)
            self.order.append(found)
        if self.interrupted is not None:
            lost, self.interrupted = self.interrupted, None
            found.attempts.append(replace(lost, number=number))
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
    fold.become("queued" if event.held else "running", at)


def _admitted(fold: _Fold, event: words.Admitted, at: int) -> None:
    fold.node = event.node
    undoing = any(past.status == "compensating" for past in fold.history)
    fold.become("compensating" if undoing else "running", at, "its turn has come")


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
    kind = "transact" if event.transact else "step"
    step = fold.step(event.id, event.id, kind, event.began, event.attempt)
    step.kind = kind
    outcome = "done" if event.error is None else "failed"
    if event.skipped is not None:
        outcome = "skipped"
    elif event.error is None or not _is_told(step, event.attempt):
        step.attempts.append(
            AttemptView(event.attempt, event.began, at, outcome, event.error, fold.node)
        )
    step.ended, step.outcome, step.error = at, outcome, event.error


def _is_told(step: _Open, number: int) -> bool:
    """Whether the attempt `number` has failed on the record already."""
    last = step.attempts[-1] if step.attempts else None
    return last is not None and last.number >= number and last.outcome != "interrupted"


def _skip(fold: _Fold, event: words.Skipped, at: int) -> None:
    what = "done" if event.error is None else "failed"
    fold.note(at, f"{event.id} is declared {what}", event.who, event.why)


def _attempt(fold: _Fold, event: words.AttemptFailed, at: int) -> None:
    known = fold.steps.get(event.id)
    kind = "transact" if known is not None and known.kind == "transact" else "step"
    step = fold.step(event.id, event.id, kind, event.began, event.number)
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
    fold.become("waiting", at, f"waits for {words.awaited(event.name)}")
    fold.waits_for, fold.due = event.name, event.until


def _waited(fold: _Fold, event: words.WaitDone, at: int) -> None:
    step = fold.step(event.id, event.id, "wait", at)
    step.ended, step.outcome = at, "done" if event.signal is not None else "timeout"
    why = "signal came" if event.signal is not None else "no signal came in time"
    fold.become("running", at, why)


def _callback(fold: _Fold, event: words.CallbackMade, at: int) -> None:
    fold.step(event.id, event.id, "callback", at).outcome = "waiting"


def _called_back(fold: _Fold, event: words.CalledBack, at: int) -> None:
    step = fold.step(event.of, event.of, "callback", at)
    step.ended, step.outcome = at, "done"


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
    _cancelling(fold, event.children)
    if fold.status == "waiting":
        fold.become("running", at, words.decision(event))


def _child(fold: _Fold, event: words.ChildStarted, at: int) -> None:
    step = fold.step(event.id, event.id, "child", at)
    status = "detached" if event.detached else "open"
    if event.detached:
        step.outcome, step.ended = "done", at
    fold.children[event.child] = ChildView(
        event.child, event.id, event.type, event.version, status, event.detached, at
    )


def _child_ended(fold: _Fold, event: words.ChildEnded, at: int) -> None:
    child = fold.children[event.child]
    fold.children[event.child] = replace(child, status=event.status, ended=at)
    if (step := fold.steps.get(child.name)) is not None:
        step.ended, step.error = at, event.error
        step.outcome = "done" if event.status == "done" else "failed"
    if fold.status == "waiting":
        fold.become("running", at, f"child {event.child} ended: {event.status}")


def _cancelling(fold: _Fold, children: Sequence[str]) -> None:
    """These children are told to cancel, if they have not ended."""
    for id in children:
        if (child := fold.children[id]).ended is None:
            fold.children[id] = replace(child, status="cancelling")


def _waits_on(fold: _Fold, event: words.WaitsOn, at: int) -> None:
    fold.become("waiting", at, f"waits for {event.name}" if event.name else "sleeps")
    fold.waits_for, fold.due = event.name, event.until


def _published(fold: _Fold, event: words.Published, at: int) -> None:
    step = fold.step(event.id, event.id, "publish", at)
    step.ended, step.outcome = at, "done"


def _state(fold: _Fold, event: words.StateSet, at: int) -> None:
    fold.state = event.state


def _tagged(fold: _Fold, event: words.Tagged, at: int) -> None:
    fold.tags = dict(event.tags)


def _cancel(fold: _Fold, event: words.Cancel, at: int) -> None:
    if event.deadline is not None:
        fold.history.append(PastState(fold.status, at, "its deadline has passed"))
        return
    fold.cancelled = True
    if event.fork:
        fold.forks.append(event.fork)
    by = f" by {event.who}" if event.who else ""
    if fold.head.lines and fold.status in ("paused", "stuck"):
        fold.status = "queued"
    fold.history.append(
        PastState(fold.status, at, f"cancel requested{by}: {event.reason}".rstrip(": "))
    )


def _compensating(fold: _Fold, event: words.Compensating, at: int) -> None:
    fold.failure = event.error
    fold.become("compensating", at, f"{event.error.type}: {event.error.message}")
    for step in fold.order:
        if step.outcome in ("running", "waiting") and step.kind != "child":
            step.outcome, step.ended = "abandoned", at
    _cancelling(fold, event.children)


def _undo_failed(fold: _Fold, event: words.UndoFailed, at: int) -> None:
    step = fold.step(f"undo {event.id}", event.id, "undo", event.began, event.number)
    step.attempts.append(
        AttemptView(event.number, event.began, at, "failed", event.error, fold.node)
    )
    step.error = event.error


def _undone(fold: _Fold, event: words.Undone, at: int) -> None:
    step = fold.step(f"undo {event.id}", event.id, "undo", event.began, event.attempt)
    step.ended, step.outcome, step.error = at, "undone", None
    if event.skipped is not None:
        step.outcome = "skipped"
        what = f"{event.id} is declared undone"
        fold.note(at, what, event.skipped.who, event.skipped.why)
        return
    step.attempts.append(AttemptView(event.attempt, event.began, at, "done", None, fold.node))


def _stuck(fold: _Fold, event: words.Stuck, at: int) -> None:
    fold.failure = event.error
    fold.become("stuck", at, f"{event.error.type}: {event.error.message}")


def _paused(fold: _Fold, event: words.Paused, at: int) -> None:
    if event.why == words.OPERATOR:
        fold.waited = fold.waits_for, fold.due
        fold.become("paused", at, words.told("paused", event.who, event.detail))
        return
    fold.failure = Failure(event.why, event.detail, retryable=False)
    fold.become("paused", at, f"{event.why}: {event.detail}".rstrip(": "))


def _resumed(fold: _Fold, event: words.Resumed, at: int) -> None:
    undoing = any(past.status == "compensating" for past in fold.history)
    if not undoing:
        fold.failure = None
    why = words.told("goes on" if event.kept else "retried", event.who, event.why)
    if event.waiting:
        fold.become("waiting", at, why)
        fold.waits_for, fold.due = fold.waited
    else:
        going = "compensating" if undoing else "running"
        fold.become("queued" if fold.head.lines else going, at, why)


def _hastened(fold: _Fold, event: words.Hastened, at: int) -> None:
    fold.note(at, "the next attempt is made at once", event.who, event.why)


def _deadline(fold: _Fold, event: words.Deadline, at: int) -> None:
    if event.by is not None:
        what = "its deadline is lifted" if event.until is None else "its deadline is set"
        fold.note(at, what, event.by.who, event.by.why)


def _forked(fold: _Fold, event: words.Forked, at: int) -> None:
    fold.forked_from = event.source
    fold.note(at, f"goes on from {event.source} at {event.step}", event.who, event.why)
    for step in fold.order:
        if step.ended is not None:
            step.ended = event.times.get(step.name, step.ended)


def _stranded(fold: _Fold, event: words.Stranded, at: int) -> None:
    fold.before = fold.status
    why = f"{event.node} does not run {fold.head.type} version {fold.head.version}"
    fold.become("no_worker_for_version", at, why)


def _again(fold: _Fold, event: words.Again, at: int) -> None:
    fold.ended = at
    fold.history.append(PastState(fold.status, at, f"era {event.era} begins"))


def _ended(fold: _Fold, event: words.Ended, at: int) -> None:
    fold.result = event.result if event.status == "done" else None
    fold.failure = event.error or (fold.failure if event.status != "done" else None)
    fold.ended = at
    fold.become(event.status, at)


_HANDLERS: dict[str, Any] = {
    "started": _started,
    "again": _again,
    "admitted": _admitted,
    "taken": _taken,
    "step": _step,
    "attempt": _attempt,
    "wait": _wait,
    "waited": _waited,
    "callback": _callback,
    "called_back": _called_back,
    "sleep": _sleep,
    "woke": _woke,
    "child": _child,
    "child_ended": _child_ended,
    "waits": _waits_on,
    "published": _published,
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
    "hastened": _hastened,
    "skipped": _skip,
    "deadline": _deadline,
    "forked": _forked,
    "stranded": _stranded,
    "ended": _ended,
}


def view_of(id: str, head: Head, events: Sequence[Event]) -> View:
    """The view of a process from its cell's value and its journal."""
    fold = _Fold(head)
    for event in events:
        fold.take(event.kind, unpack(event.kind, event.data), event.time)
    if not fold.history:  # nothing has happened: its cell says what is wanted
        why = "no node runs this version" if head.status == "no_worker_for_version" else ""
        fold.become(head.status, head.started, why)
    return View(
        id=id,
        type=head.type,
        version=head.version,
        status=fold.status,
        seq=head.before + len(events),
        data=fold.state if fold.state is not None else fold.input,
        result=fold.result,
        failure=fold.failure,
        started=events[0].time if events and head.era == 1 else head.started,
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
        notice=None if head.notice is None else notice_view(head.notice),
        era=head.era,
        parent=head.parent,
        children=tuple(fold.children.values()),
        forked_from=fold.forked_from,
        forks=tuple(fold.forks),
        tags=fold.tags,
    )


def notice_view(notice: Notice) -> NoticeView:
    """How it stands with telling an end, without what is secret in the address."""
    due = notice.due or None
    status = notice.status or "planned"
    return NoticeView(masked(notice.url), status, notice.attempts, notice.said, due)


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
    head = read_head(cell.value)
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
