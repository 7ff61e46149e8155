"""The first part of a journal, as another process begins with it: decided by pure functions.

    journal of the old one   started  a  wait x  signal  b✗ b✗ stuck
                             └─────────────────────────┘ at b: all before its first event
    journal of the new one   started  a  wait x  signal  forked │ b …

    taken over    steps, waits, sleeps, decisions and part undos that stand; what was set as state;
                  the pivot; every signal and update that had come before, taken or not; what was
                  published; children that had ended by then, and those that were started detached
    left behind   attempts and skips of what is not recorded (they begin anew), deadlines (they
                  count anew), children under way (they are started anew), callbacks that nobody
                  has called (they are made anew), signals that came later, pauses, take-overs

Positions in the journal change, so what refers to a signal is told its new one. Arguments of what
was taken over are not compared any more, because the input may be another; names and order are.
Not promised: that the body comes by the same way under another input. Where it does not, that is
drift, which pauses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from outlive.codec import NULL
from outlive.errors import NoSuchStep, NotForkable, TooLargeToFork
from outlive.kinds.processes.journal import Journal
from outlive.kinds.processes.vocabulary import (
    Answered,
    Asked,
    AttemptFailed,
    CallbackMade,
    CalledBack,
    ChildEnded,
    ChildStarted,
    Decided,
    Forked,
    Pivot,
    Published,
    Signal,
    Skipped,
    SleepBegan,
    StateSet,
    StepDone,
    Undone,
    WaitBegan,
    WaitDone,
    Woke,
    unpack,
    wait_for_callback,
)
from outlive.model import Event

EVENTS_MAX = 10_000
BYTES_MAX = 8 * 1024 * 1024
"""What is taken over by one fork, which is one commit."""
_POINTS = (StepDone, AttemptFailed, Skipped, WaitBegan, SleepBegan, Decided)


class Share(Struct, frozen=True):
    """The part of a journal that a fork takes over."""

    upto: int
    """Events before this position."""
    undoable: tuple[str, ...]
    """Steps in it that can be undone and are not."""


def share_of(id: str, events: Sequence[Event], step: str) -> Share:
    """What a fork of `id` at `step` takes over.

    Raises `NoSuchStep`, `NotForkable` when a step in it was undone, `TooLargeToFork`.
    """
    payloads = [unpack(event.kind, event.data) for event in events]
    upto = next(
        (n for n, found in enumerate(payloads) if type(found) in _POINTS and found.id == step), None
    )
    if upto is None:
        raise NoSuchStep(f"{id} has recorded no step {step[:200]!r}. Nothing was forked.")
    size = sum(len(event.data) for event in events[:upto])
    if upto > EVENTS_MAX or size > BYTES_MAX:
        raise TooLargeToFork(
            f"{upto} events of {size} bytes stand before {step}; at most {EVENTS_MAX} events and "
            f"{BYTES_MAX} bytes are taken over. Nothing was forked."
        )
    part, whole = Journal(), Journal()
    for payload in payloads[:upto]:
        part.apply(payload, 0)
    for payload in payloads:
        whole.apply(payload, 0)
    undoable = tuple(armed.id for armed in reversed(part.armed()))
    clash = [one for one in undoable if one in whole.undone]
    if clash:
        raise NotForkable(
            f"{clash[0]} stands before {step} and was undone, or went to another fork: {id} cannot "
            "be forked there. Nothing was forked."
        )
    let_go = () if part.family is None else part.family.let_go - part.family.ends.keys()
    if let_go:
        raise NotForkable(
            f"Before {step} a part of {id} was over and its child {min(let_go)} had not ended: "
            "it cannot be forked there. Nothing was forked."
        )
    return Share(upto, undoable)


def taken_over(
    events: Sequence[Event], *, undo: bool, first: int
) -> tuple[list[Any], dict[str, int]]:
    """What `events` are in the journal of the process that takes them over, from position `first`
    on, and when each record of them was made. Without `undo` it never undoes them."""
    journal, payloads = Journal(), []
    for event in events:
        payload = unpack(event.kind, event.data)
        journal.apply(payload, event.time)
        payloads.append(payload)
    found: list[Any] = []
    places: dict[int, int] = {}
    for n, payload in enumerate(payloads):
        if not _stands(payload, journal, undo):
            continue
        places[n] = first + len(found)
        found.append(_moved(payload, places, undo))
    ends = () if journal.family is None else journal.family.ends
    times = {id: at for id, at in journal.times.items() if id in journal.records or id in ends}
    return found, times


def _stands(payload: Any, journal: Journal, undo: bool) -> bool:
    match payload:
        case StepDone() | WaitBegan() | SleepBegan() | Decided() | Published():
            return journal.records.get(payload.id) is payload
        case ChildStarted():
            over = journal.family is not None and payload.child in journal.family.ends
            return payload.detached or over
        case CallbackMade():
            return _is_over(payload, journal)
        case WaitDone():
            return journal.waited.get(payload.id) is payload
        case Woke():
            return payload.id in journal.woken
        case Undone():
            return undo
    kept = (Signal, Asked, Answered, CalledBack, ChildEnded, StateSet, Pivot, Forked)
    return isinstance(payload, kept)


def _is_over(made: CallbackMade, journal: Journal) -> bool:
    """Whether it was told something, or its time was up: nobody is to call it any more."""
    told = journal.heard is not None and made.id in journal.heard.calls
    name = wait_for_callback(made.id)
    return told or any(wait.name == name for wait in journal.timed_out())


def _moved(payload: Any, places: dict[int, int], undo: bool) -> Any:
    match payload:
        case WaitBegan(signal=int() as n) | WaitDone(signal=int() as n):
            return replace(payload, signal=places[n])
        case Answered():
            return replace(payload, n=places[payload.n])
        case StepDone() | ChildStarted() if not undo:
            return replace(payload, undo="", given=NULL)
        case Decided() if not undo:
            unknown = tuple(replace(armed, undo="") for armed in payload.unknown)
            return replace(payload, unknown=unknown, undo=())
    return payload
