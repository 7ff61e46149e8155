"""What a process has heard beside its signals: updates and callbacks, folded from its journal.

    update     asked ──> waits among the signals ──> taken by the body ──> answered · refused
    callback   made ──> called back (once) ──> waits among the signals ──> taken by the body

Both wait under names that no signal can have, so `run.wait` and they share one decision between
what comes and a time-out. A key names an update for ever: asked again, the same answer is given,
because the answer is a record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from outlive import codec
from outlive.kinds.processes.vocabulary import (
    Answered,
    Asked,
    CallbackMade,
    CalledBack,
    Failure,
    Signal,
    unpack,
    wait_for_callback,
    wait_for_update,
)
from outlive.model import Event

DIGESTED = "~"
"""What stands before an address that is a digest."""
_PLAIN_KEY = re.compile(r"[A-Za-z0-9._-]{1,255}\Z")
Standing = Literal["accepted", "answered", "refused", "unanswered"]


class Heard:
    """The updates and callbacks of one process."""

    __slots__ = ("answers", "asked", "callbacks", "calls")

    def __init__(self) -> None:
        self.asked: dict[tuple[str, str], int] = {}
        """The `n` of each update, by its name and key."""
        self.answers: dict[int, Answered] = {}
        self.callbacks: dict[str, CallbackMade] = {}
        self.calls: dict[str, Raw] = {}
        """What each callback was told."""

    def apply(self, n: int, event: Any) -> Signal | None:
        """Take in event `n`; gives what waits to be taken by the body because of it."""
        match event:
            case Asked():
                self.asked[event.name, event.key] = n
                return Signal(wait_for_update(event.name), event.payload)
            case Answered():
                self.answers[event.n] = event
            case CallbackMade():
                self.callbacks[event.id] = event
            case CalledBack():
                self.calls[event.of] = event.payload
                return Signal(wait_for_callback(event.of), event.payload)
        return None


class UpdateView(Struct, frozen=True):
    """An update as whoever asked it sees it."""

    name: str
    key: str
    status: Standing
    """accepted · answered · refused · unanswered: the process ended before it had answered."""
    asked: int
    """When it was accepted; 0 while its process has not heard of it."""
    answer: Raw | None = None
    failure: Failure | None = None
    """Why it was refused."""
    payload: Raw = codec.NULL


def place_of(key: str) -> str:
    """The last part of an update's address: its key, or a digest of one that is no plain text."""
    return key if _PLAIN_KEY.match(key) else DIGESTED + codec.digest(key.encode())


def update_in(events: Iterable[Event], name: str, place: str) -> UpdateView | None:
    """The update `name` at the address `place` as the journal tells it; None when it does not."""
    n, found = -1, None
    for event in events:
        if event.kind == "asked":
            asked = unpack(event.kind, event.data)
            if asked.name == name and place_of(asked.key) == place:
                n = event.n
                found = UpdateView(name, asked.key, "accepted", event.time, payload=asked.payload)
        elif event.kind == "answered" and found is not None:
            told = unpack(event.kind, event.data)
            if told.n == n:
                kind: Standing = "answered" if told.error is None else "refused"
                result = told.result if told.error is None else None
                return msgspec.structs.replace(
                    found, status=kind, answer=result, failure=told.error
                )
    return found


def called_in(events: Iterable[Event], of: str) -> tuple[CallbackMade | None, Raw | None]:
    """The callback `of` and what it was told, as the journal tells it."""
    made: CallbackMade | None = None
    for event in events:
        if event.kind == "callback":
            found = unpack(event.kind, event.data)
            made = found if found.id == of else made
        elif event.kind == "called_back":
            told = unpack(event.kind, event.data)
            if told.of == of:
                return made, told.payload
    return made, None


def same(one: Raw | bytes, other: Raw | bytes) -> bool:
    """Whether two pieces of JSON say the same, whatever the order of their members."""
    read = codec.ANYTHING.read
    return bytes(one) == bytes(other) or codec.fingerprint(read(one)) == codec.fingerprint(
        read(other)
    )
