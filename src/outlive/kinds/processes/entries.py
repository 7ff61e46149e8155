"""The journal line by line, as an operator reads it: one durable event, one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Raw, Struct

from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.vocabulary import KIND_OF, unpack
from outlive.model import Event


class Entry(Struct, frozen=True):
    """One durable event, in a readable line and as stored."""

    n: int
    kind: str
    at: int
    node: str
    text: str
    data: Raw


def entries(events: Sequence[Event]) -> list[Entry]:
    """Each event as a readable line."""
    found, node = [], ""
    for event in events:
        payload = unpack(event.kind, event.data)
        node = getattr(payload, "node", "") or node
        found.append(
            Entry(event.n, event.kind, event.time, node, line_of(payload), Raw(event.data))
        )
    return found


def line_of(event: Any) -> str:
    """An event in words."""
    match event:
        case words.Started(held=True):
            return f"accepted as {event.type} version {event.version}; it stands in line"
        case words.Started():
            era = f", era {event.era}" if event.era > 1 else ""
            return f"started as {event.type} version {event.version}{era}"
        case words.Taken():
            return f"taken over by {event.node}" + (" after a crash" if event.crash else "")
        case words.StepDone(skipped=words.Skip() as skip):
            return words.told(f"{event.id} skipped", skip.who, skip.why)
        case words.StepDone(error=None):
            return f"{event.id} done at attempt {event.attempt}"
        case words.StepDone(error=words.Failure() as error):
            return f"{event.id} gave up: {error.message}"
        case words.AttemptFailed() | words.UndoFailed():
            return f"{event.id} failed at attempt {event.number}: {event.error.message}"
        case words.WaitBegan():
            return (
                f"waits for {words.awaited(event.name)}"
                if event.signal is None
                else f"took {event.name}"
            )
        case words.WaitDone():
            return f"{event.id}: " + ("signal came" if event.signal is not None else "time is up")
        case words.SleepBegan():
            return f"{event.id} began"
        case words.Woke():
            return f"{event.id} is over"
        case words.Decided():
            return words.decision(event)
        case words.Undone(skipped=words.Skip() as skip):
            return words.told(f"undo of {event.id} skipped", skip.who, skip.why)
        case words.Undone():
            return f"{event.id} undone"
        case words.Compensating():
            return f"rolls back: {event.error.type}: {event.error.message}"
        case words.Stuck():
            return f"stuck: {event.error.message}"
        case words.Paused(why=words.OPERATOR):
            return words.told("paused", event.who, event.detail)
        case words.Resumed():
            return words.told("goes on" if event.kept else "retried", event.who, event.why)
        case words.Paused():
            return f"paused: {event.why} {event.detail}".strip()
        case words.Ended():
            return f"ended: {event.status}"
        case words.StateSet():
            return "state set"
        case words.Deadline(by=words.Skip() as by):
            said = "deadline lifted" if event.until is None else "deadline set"
            return words.told(said, by.who, by.why)
        case words.Tagged():
            said = ", ".join(f"{name}={value}" for name, value in event.tags)
            return f"tags set: {said or 'none'}"
        case words.Deadline():
            return "no deadline" if event.until is None else "deadline set"
        case words.Cancel(deadline=int()):
            return "its deadline has passed"
        case words.Cancel():
            return f"cancel requested: {event.reason}".rstrip(": ")
    return _line_beside(event)


def _line_beside(event: Any) -> str:
    """An event between a process and others: signals, updates, children, eras, other stores."""
    match event:
        case words.Again():
            let_go = f"; undos let go: {event.undos}" if event.undos else ""
            carried = f"; signals taken along: {event.signals}" if event.signals else ""
            return f"era {event.era} begins{let_go}{carried}"
        case words.Carried():
            return f"{len(event.keys)} keys of earlier signals are known"
        case words.Imported():
            return f"imported with {len(event.times)} events of another store"
        case words.Signal():
            return f"signal {event.name}"
        case words.Asked():
            return f"update {event.name} accepted"
        case words.Answered():
            why = "" if event.error is None else f": {event.error.message}"
            return f"update at {event.n} " + ("refused" if why else "answered") + why
        case words.CallbackMade():
            return f"{event.id} may be called back"
        case words.CalledBack():
            return f"{event.of} was called back"
        case words.ChildStarted():
            apart = ", detached" if event.detached else ""
            return f"{event.id}: {event.child} ({event.type} version {event.version}{apart})"
        case words.ChildEnded():
            why = "" if event.error is None else f": {event.error.message}"
            return f"child {event.child} ended: {event.status}{why}"
        case words.WaitsOn():
            return f"waits for {event.name}" if event.name else "sleeps"
        case words.Published():
            return f"published {event.name} as {event.event}"
        case words.Admitted():
            return "its turn has come"
        case words.Hastened():
            said = ", ".join((*event.steps, *(f"undo of {id}" for id in event.undos)))
            return words.told(f"tried at once: {said}", event.who, event.why)
        case words.Skipped():
            said = "done" if event.error is None else f"failed: {event.error.message}"
            return words.told(f"{event.id} is declared {said}", event.who, event.why)
        case words.Forked():
            said = f"goes on from {event.source} at {event.step}"
            return words.told(said, event.who, event.why)
        case words.Stranded():
            return f"{event.node} does not run this version"
    return KIND_OF[type(event)]
