"""The words of a process: its journal's events, its cell, and the commands that reach it.

Every event is one small struct, stored as JSON under its kind. Fields that hold their default are
left out, so that a field can be added without touching what is stored. `id` in them is a step's
identity inside its process: its name, with `#2`, `#3` … for the second and third use, or `name:key`
when the caller gave a key. What happens in a branch has the branch's path before it: `pay/charge`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from outlive.codec import NULL
from outlive.errors import ProcessGone
from outlive.kinds.processes.tags import Tags
from outlive.model import ERASED

STATUSES = (
    "queued",
    "running",
    "waiting",
    "paused",
    "compensating",
    "rolled_back",
    "stuck",
    "failed",
    "cancelled",
    "done",
    "no_worker_for_version",
)
FINAL = frozenset({"rolled_back", "failed", "cancelled", "done"})
LIVE = ("queued", "running", "compensating")
"""Statuses that a node taking the shard over must go on with at once."""
HALTED = ("paused", "stuck", "no_worker_for_version")
"""Statuses that only an operator or another node ends."""
NOTICE, UNDELIVERED = "process.notice", "undelivered"
"""The mark of ended processes whose end could not be told."""
OPERATOR = "operator"
"""Why a process is paused that somebody has paused."""
QUARANTINED = "quarantined"
"""Why a process is paused that was under way whenever its node died."""
GONE = "gone"
"""The status of a tombstone."""


class Unknown:
    """The outcome of a step that may or may not have happened: what an `undo` gets instead of a
    result."""

    def __repr__(self) -> str:
        return "Unknown()"


class Failure(Struct, frozen=True, omit_defaults=True, gc=False):
    """An error as it is recorded: named, never pickled."""

    type: str
    message: str
    code: str = ""
    retryable: bool = True


class Started(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    type: str
    version: int
    input: Raw
    node: str = ""
    era: int = 1
    before: int = 0
    """How many events its earlier eras have."""
    parent: str = ""
    """The process that has started it; empty: it was started from outside."""
    detached: bool = False
    """Whether its parent neither waits for it nor takes it along when it is cancelled."""
    held: bool = False
    """It stands in a line: its body does not run before it is `Admitted`."""
    trace: str = ""
    """The trace context of whoever started it, where it is traced (W3C Trace Context)."""
    tags: Tags = ()
    """What it is found by."""


class Again(Struct, frozen=True, omit_defaults=True, gc=False):
    """The last event of an era: the next one has begun, in a stream of its own, by the same
    commit."""

    era: int
    """The number of the era that has begun."""
    undos: int = 0
    """How many undos were armed and are let go: an era that has ended is not rolled back."""
    signals: int = 0
    """How many signals no wait had taken: they are in the next era."""


class Carried(Struct, frozen=True, omit_defaults=True, gc=False):
    """Keys of signals of earlier eras: one that is sent again with such a key is not counted."""

    keys: tuple[str, ...]


class Imported(Struct, frozen=True, omit_defaults=True, gc=False):
    """The events before this one come from another store, where they were committed at other
    times."""

    times: tuple[int, ...]
    """The time of each of them there."""


class Admitted(Struct, frozen=True, omit_defaults=True, gc=False):
    """The turn of a process that was recorded before, and stood in a line, has come."""

    node: str = ""


class Taken(Struct, frozen=True, omit_defaults=True, gc=False):
    """Another node goes on with the process; `crash` when the last one did not hand it over in
    order."""

    node: str
    epoch: int
    crash: bool = False


class Skip(Struct, frozen=True, omit_defaults=True, gc=False):
    """Who has declared something as settled that was not done, and why."""

    who: str = ""
    why: str = ""


class StepDone(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    name: str
    order: int
    args: str
    began: int
    attempt: int = 1
    result: Raw = NULL
    error: Failure | None = None
    undo: str = ""
    given: Raw = NULL
    transact: bool = False
    skipped: Skip | None = None
    """It was not done, but declared by an operator."""


class AttemptFailed(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    name: str
    number: int
    began: int
    error: Failure
    again_at: int


class WaitBegan(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    name: str
    order: int
    until: int | None = None
    signal: int | None = None
    """The `n` of the signal that had come before the wait, which is consumed by it."""


class WaitDone(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    signal: int | None = None
    """The `n` of the signal that ended the wait; None: the time was up."""


class Signal(Struct, frozen=True, omit_defaults=True, gc=False):
    name: str
    payload: Raw = NULL
    key: str = ""
    trace: str = ""
    """The trace context of its sender."""


class Asked(Struct, frozen=True, omit_defaults=True, gc=False):
    """An update was accepted: somebody waits for its answer."""

    name: str
    payload: Raw = NULL
    key: str = ""


class Answered(Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to the update at `n`."""

    n: int
    result: Raw = NULL
    error: Failure | None = None
    """Why it was refused, if it was."""


class CallbackMade(Struct, frozen=True, omit_defaults=True, gc=False):
    """An outside system may call back: what leads here lies in a cell, found by a digest."""

    id: str
    name: str
    order: int
    until: int | None = None
    base: str = ""
    """Where its address begins: the same on every replay."""


class CalledBack(Struct, frozen=True, omit_defaults=True, gc=False):
    """What an outside system has said to the callback `of`."""

    of: str
    payload: Raw = NULL


class SleepBegan(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    order: int
    until: int


class Woke(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str


class StateSet(Struct, frozen=True, omit_defaults=True, gc=False):
    state: Raw
    count: int = 1
    """How often the body had set its state by then: what a replay need not set again."""
    branch: str = ""
    """The path of the branch that has set it, and that counts for itself; empty: the body."""


class Pivot(Struct, frozen=True, omit_defaults=True, gc=False):
    pass


class Deadline(Struct, frozen=True, omit_defaults=True, gc=False):
    """The body has set when it must have ended; None: whenever."""

    until: int | None = None
    count: int = 1
    """How often it had by then: what a replay need not set again."""
    by: Skip | None = None
    """Who has set it from outside, and why; None: the body."""


class Tagged(Struct, frozen=True, omit_defaults=True, gc=False):
    """The body has set or taken away tags: all that the process has from then on."""

    tags: Tags = ()
    count: int = 1
    """How often it had by then: what a replay need not set again."""


class Cancel(Struct, frozen=True, omit_defaults=True, gc=False):
    reason: str = ""
    who: str = ""
    deadline: int | None = None
    """The deadline that has passed; None when somebody asked for it."""
    fork: str = ""
    """The process that goes on with what this one has done; empty: none."""
    kept: tuple[str, ...] = ()
    """Steps that are that one's to undo now, and not undone here."""


class Armed(Struct, frozen=True, omit_defaults=True, gc=False):
    """A step whose undo is to be called: what it was given, and what came of it if that is
    known."""

    id: str
    name: str
    undo: str
    given: Raw = NULL
    result: Raw | None = None
    transact: bool = False
    child: str = ""
    """The child that is taken back, in the place of a step; `name` is its type then."""


class ChildStarted(Struct, frozen=True, omit_defaults=True, gc=False):
    """Another process was started by this one, in the same commit."""

    id: str
    order: int
    child: str
    type: str
    version: int
    args: str
    detached: bool = False
    undo: str = ""
    given: Raw = NULL
    """What the undo is given beside the result; only if there is one."""


class ChildEnded(Struct, frozen=True, omit_defaults=True, gc=False):
    """A child has come to its end: the record that whoever waits for it goes on with."""

    child: str
    status: str
    result: Raw = NULL
    error: Failure | None = None


class WaitsOn(Struct, frozen=True, omit_defaults=True, gc=False):
    """It leaves memory, because nothing of it goes on before a child has ended."""

    name: str
    """The child, or the signal that it waits for beside."""
    until: int | None = None


class Published(Struct, frozen=True, omit_defaults=True, gc=False):
    """An event was published, in the same commit as what delivers it."""

    id: str
    order: int
    event: str
    name: str
    args: str


class Decided(Struct, frozen=True, omit_defaults=True, gc=False):
    """How a part of the body came out where the code alone does not say: which branch of a race has
    won, which one has failed first, that a scope is rolled back."""

    id: str
    what: str
    """gather · first · scope"""
    order: int
    branch: str = ""
    """The path of the branch that decided it; what the others did is not asked for any more."""
    error: Failure | None = None
    unknown: tuple[Armed, ...] = ()
    """Steps of that part that had been started and not recorded: they count as recorded now, with
    an unknown result."""
    waits: tuple[str, ...] = ()
    """Waits and sleeps that ended with it."""
    undo: tuple[str, ...] = ()
    """Steps that are undone because of it, while the process goes on."""
    children: tuple[str, ...] = ()
    """Children of that part: those that had not ended are cancelled, and nobody asks for them."""


def decision(event: Decided) -> str:
    """What was decided, in words."""
    why = "" if event.error is None else f": {event.error.type}: {event.error.message}"
    if event.what == "scope":
        return f"{event.id} is rolled back{why}"
    return f"{event.id}: {event.branch.rstrip('/')} {'has failed' if why else 'has won'}{why}"


class Compensating(Struct, frozen=True, omit_defaults=True, gc=False):
    error: Failure
    cancelled: bool = False
    unknown: tuple[Armed, ...] = ()
    """Steps that had been started and not recorded."""
    children: tuple[str, ...] = ()
    """Children that had not ended: they are cancelled first."""


class UndoFailed(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    name: str
    number: int
    began: int
    error: Failure
    again_at: int


class Undone(Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    name: str
    began: int
    attempt: int = 1
    skipped: Skip | None = None
    """It was not undone, but declared so by an operator."""


class Stuck(Struct, frozen=True, omit_defaults=True, gc=False):
    error: Failure
    id: str = ""


class Paused(Struct, frozen=True, omit_defaults=True, gc=False):
    why: str
    detail: str = ""
    who: str = ""
    """The operator who asked for it; empty when nobody did."""
    waiting: bool = False
    """It waited then, so that nothing of it was under way."""


class Resumed(Struct, frozen=True, omit_defaults=True, gc=False):
    who: str = ""
    why: str = ""
    kept: bool = False
    """It goes on where it was: attempts stay counted. Otherwise what had given up is tried
    afresh."""
    waiting: bool = False
    """It waits again."""


class Hastened(Struct, frozen=True, omit_defaults=True, gc=False):
    """Steps and undos that wait for their next attempt make it at once."""

    steps: tuple[str, ...] = ()
    undos: tuple[str, ...] = ()
    who: str = ""
    why: str = ""


class Skipped(Struct, frozen=True, omit_defaults=True, gc=False):
    """A step that fails is declared as settled: when the body comes to it, it is not called."""

    id: str
    result: Raw = NULL
    error: Failure | None = None
    undo: bool = True
    """Whether it is undone, if it comes to that, like one that was done."""
    who: str = ""
    why: str = ""


class Forked(Struct, frozen=True, omit_defaults=True, gc=False):
    """All before this was done by another process, with which this one goes on."""

    source: str
    stream: str
    step: str
    """The first step that is not the other one's."""
    began: int
    """When the other one was started."""
    times: dict[str, int] = {}
    """When it had recorded what was taken from it."""
    who: str = ""
    why: str = ""


class Stranded(Struct, frozen=True, omit_defaults=True, gc=False):
    """The node that holds the shard does not run this type and version."""

    node: str


class Ended(Struct, frozen=True, omit_defaults=True, gc=False):
    status: str
    result: Raw = NULL
    error: Failure | None = None


KINDS: dict[str, type[Struct]] = {
    "started": Started,
    "again": Again,
    "carried": Carried,
    "imported": Imported,
    "admitted": Admitted,
    "taken": Taken,
    "step": StepDone,
    "attempt": AttemptFailed,
    "wait": WaitBegan,
    "waited": WaitDone,
    "signal": Signal,
    "asked": Asked,
    "answered": Answered,
    "callback": CallbackMade,
    "called_back": CalledBack,
    "sleep": SleepBegan,
    "woke": Woke,
    "state": StateSet,
    "pivot": Pivot,
    "deadline": Deadline,
    "tagged": Tagged,
    "cancel": Cancel,
    "child": ChildStarted,
    "child_ended": ChildEnded,
    "waits": WaitsOn,
    "published": Published,
    "forked": Forked,
    "decided": Decided,
    "compensating": Compensating,
    "undo_failed": UndoFailed,
    "undone": Undone,
    "stuck": Stuck,
    "paused": Paused,
    "resumed": Resumed,
    "hastened": Hastened,
    "skipped": Skipped,
    "stranded": Stranded,
    "ended": Ended,
}
KIND_OF: dict[type[Struct], str] = {made: kind for kind, made in KINDS.items()}
_decoders: dict[str, Callable[[bytes], Any]] = {
    kind: msgspec.json.Decoder(made).decode for kind, made in KINDS.items()
}
pack = msgspec.json.Encoder().encode


def unpack(kind: str, data: bytes) -> Any:
    """The payload of an event of `kind`. Raises `ProcessGone` for one that was erased."""
    return _decoders[kind](data)


def _erased(_: bytes) -> Any:
    raise ProcessGone("The retention was over before the journal was read.")


_decoders[ERASED] = _erased


def told(what: str, who: str, why: str) -> str:
    """What was done from outside, in words: `paused by ann: the bank is down`."""
    by = f" by {who}" if who else ""
    return f"{what}{by}: {why}" if why else f"{what}{by}"


_UPDATE, _CALLBACK = "update ", "callback "


def wait_for_update(name: str) -> str:
    """The name under which a body waits for the update `name`; no signal has it."""
    return _UPDATE + name


def wait_for_callback(id: str) -> str:
    """The name under which a body waits for the callback `id`; no signal has it."""
    return id if id.startswith(_CALLBACK) else _CALLBACK + id


def is_taken(name: str) -> bool:
    """Whether `name` is that of an update or callback, so that no signal may have it."""
    return name.startswith((_UPDATE, _CALLBACK))


def awaited(name: str) -> str:
    """What a wait with this name is for, in words."""
    return name if is_taken(name) else f"signal {name}"
