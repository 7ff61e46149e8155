"""The words of a process: its journal's events, its cell, and the commands that reach it.

Every event is one small struct, stored as JSON under its kind. Fields that hold their default are
left out, so that a field can be added without touching what is stored. `id` in them is a step's
identity inside its process: its name, with `#2`, `#3` … for the second and third use, or `name:key`
when the caller gave a key. What happens in a branch has the branch's path before it: `pay/charge`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from outlive.codec import NULL
from outlive.kinds.processes import tags as tagging
from outlive.kinds.processes.tags import Tags
from outlive.model import Put, Ref, shard_of

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
    tags: Tags = ()


class Taken(Struct, frozen=True, omit_defaults=True, gc=False):
    """Another node goes on with the process; `crash` when the last one did not hand it over in
    order."""

    node: str
    epoch: int
    crash: bool = False


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


class Armed(Struct, frozen=True, omit_defaults=True, gc=False):
    """A step whose undo is to be called: what it was given, and what came of it if that is
    known."""

    id: str
    name: str
    undo: str
    given: Raw = NULL
    result: Raw | None = None
    transact: bool = False


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


class Stuck(Struct, frozen=True, omit_defaults=True, gc=False):
    error: Failure
    id: str = ""


class Paused(Struct, frozen=True, omit_defaults=True, gc=False):
    why: str
    detail: str = ""


class Resumed(Struct, frozen=True, omit_defaults=True, gc=False):
    who: str = ""


class Stranded(Struct, frozen=True, omit_defaults=True, gc=False):
    """The node that holds the shard does not run this type and version."""

    node: str


class Ended(Struct, frozen=True, omit_defaults=True, gc=False):
    status: str
    result: Raw = NULL
    error: Failure | None = None


KINDS: dict[str, type[Struct]] = {
    "started": Started,
    "taken": Taken,
    "step": StepDone,
    "attempt": AttemptFailed,
    "wait": WaitBegan,
    "waited": WaitDone,
    "signal": Signal,
    "sleep": SleepBegan,
    "woke": Woke,
    "state": StateSet,
    "pivot": Pivot,
    "deadline": Deadline,
    "tagged": Tagged,
    "cancel": Cancel,
    "decided": Decided,
    "compensating": Compensating,
    "undo_failed": UndoFailed,
    "undone": Undone,
    "stuck": Stuck,
    "paused": Paused,
    "resumed": Resumed,
    "stranded": Stranded,
    "ended": Ended,
}
KIND_OF: dict[type[Struct], str] = {made: kind for kind, made in KINDS.items()}
_decoders = {kind: msgspec.json.Decoder(made).decode for kind, made in KINDS.items()}
pack = msgspec.json.Encoder().encode


def unpack(kind: str, data: bytes) -> Any:
    """The payload of an event of `kind`."""
    return _decoders[kind](data)


class Head(Struct, frozen=True, omit_defaults=True, gc=False):
    """The value of a process's cell: enough to list it, to find its journal and to know who runs
    it."""

    stream: str
    type: str
    version: int
    status: str
    started: int
    changed: int = 0
    waits_for: str = ""
    input: Raw = NULL
    """Only while queued: afterwards it stands in the journal."""
    tags: Tags = ()


class Command(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is asked of a process from a node that does not own it; kept in a cell until its owner
    has acted."""

    kind: str
    """start · signal · cancel · retry"""
    id: str
    name: str = ""
    payload: Raw = NULL
    key: str = ""
    who: str = ""
    reason: str = ""


read_head = msgspec.json.Decoder(Head).decode
read_command = msgspec.json.Decoder(Command).decode


def space_of(shard: int) -> str:
    """The space of the cells of the processes in `shard`."""
    return f"process/{shard}"


def inbox_of(shard: int) -> str:
    """The space of the commands for processes in `shard`."""
    return f"inbox/{shard}"


def ref_of(id: str, shards: int) -> Ref:
    """The cell of the process with the public id `id`."""
    return Ref(space_of(shard_of(id, shards)), id)


def mark(value: str, started: int) -> str:
    """The value of a mark that lists by time within `value`."""
    return f"{value} {started:016d}"


def put_head(ref: Ref, head: Head, due: int | None = None) -> Put:
    """The write that makes a process's cell say `head`."""
    marks = (
        ("process.status", mark(head.status, head.started)),
        ("process.type", mark(head.type, head.started)),
    )
    if head.tags:
        return Put(ref, pack(head), due, marks + tagging.marks(head.tags, head.started))
    return Put(ref, pack(head), due, marks)
