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
        case words.Started():
            return f"started as {event.type} version {event.version}"
        case words.Taken():
            return f"taken over by {event.node}" + (" after a crash" if event.crash else "")
        case words.StepDone(error=None):
            return f"{event.id} done at attempt {event.attempt}"
        case words.StepDone(error=words.Failure() as error):
            return f"{event.id} gave up: {error.message}"
        case words.AttemptFailed() | words.UndoFailed():
            return f"{event.id} failed at attempt {event.number}: {event.error.message}"
        case words.WaitBegan():
            return (
                f"waits for signal {event.name}" if event.signal is None else f"took {event.name}"
            )
        case words.WaitDone():
            return f"{event.id}: " + ("signal came" if event.signal is not None else "time is up")
        case words.Signal():
            return f"signal {event.name}"
        case words.SleepBegan():
            return f"{event.id} began"
        case words.Woke():
            return f"{event.id} is over"
        case words.Decided():
            return words.decision(event)
        case words.Undone():
            return f"{event.id} undone"
        case words.Compensating():
            return f"rolls back: {event.error.type}: {event.error.message}"
        case words.Stuck():
            return f"stuck: {event.error.message}"
        case words.Paused():
            return f"paused: {event.why} {event.detail}".strip()
        case words.Ended():
            return f"ended: {event.status}"
        case words.StateSet():
            return "state set"
        case words.Tagged():
            said = ", ".join(f"{name}={value}" for name, value in event.tags)
            return f"tags set: {said or 'none'}"
        case words.Stranded():
            return f"{event.node} does not run this version"
        case words.Deadline():
            return "no deadline" if event.until is None else "deadline set"
        case words.Cancel(deadline=int()):
            return "its deadline has passed"
        case words.Cancel():
            return f"cancel requested: {event.reason}".rstrip(": ")
    return KIND_OF[type(event)]
