"""The cells of processes: what is true of one now, and what is asked of it from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Raw, Struct

from outlive.codec import NULL, digest
from outlive.kinds.processes import tags as tagging
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import NOTICE, UNDELIVERED, pack
from outlive.model import Put, Ref, shard_of


class Notice(Struct, frozen=True, omit_defaults=True, gc=False):
    """How it stands with telling the outside that a process has ended."""

    url: str
    status: str = ""
    """pending · delivered · undelivered; empty: it has not ended."""
    attempts: int = 0
    said: str = ""
    due: int = 0


class Fork(Struct, frozen=True, omit_defaults=True, gc=False):
    """With which part of whose journal a process is to begin."""

    id: str
    stream: str
    upto: int
    """Events before this position are taken over."""
    step: str
    undo: bool = True
    """Whether it undoes what it takes over, should it roll back."""
    who: str = ""
    why: str = ""


KEYS_MAX = 1000
"""Keys of signals that an ended process is known by."""


def key_digests(keys: Iterable[str]) -> tuple[str, ...]:
    """The keys of signals as the cell of an ended process holds them, at most `KEYS_MAX`."""
    return tuple(digest(key.encode())[:16] for key in keys)[-KEYS_MAX:]


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
    notice: Notice | None = None
    """Who is told of its end; None: nobody, or whoever its type names."""
    era: int = 1
    before: int = 0
    """How many events its earlier eras have."""
    imported: bool = False
    """Whether its journal has an `imported`, which says when its first events were committed."""
    parent: str = ""
    detached: bool = False
    lines: tuple[str, ...] = ()
    """The lines in which it needs its turn, where its type has limits (limits.py)."""
    place: str = ""
    """Where it stands in them."""
    trace: str = ""
    """That of its start, only while queued."""
    fork: Fork | None = None
    """What it begins with; None: with nothing."""
    forks: tuple[str, ...] = ()
    """The processes that were forked from it after its end."""
    keys: tuple[str, ...] = ()
    """Once it has ended: digests of its signals' keys, the last ones."""
    tags: Tags = ()
    """What it is found by."""

    def knows(self, key: str) -> bool:
        """Whether it has ended and had taken a signal with this key."""
        return bool(self.keys) and key_digests((key,))[0] in self.keys


class Command(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is asked of a process from a node that does not own it; kept in a cell until its owner
    has acted."""

    kind: str
    """start · signal · update · callback · cancel · retry · notify · import
    · ended (a child, to its parent) · publish (to nobody yet)
    · admit (`id` is a line: see who can go) · pause · resume · hasten · skip · deadline · fork"""
    id: str
    name: str = ""
    payload: Raw = NULL
    key: str = ""
    who: str = ""
    reason: str = ""
    event: str = ""
    """The published event that it delivers: what cannot be carried out is kept as undelivered."""
    trace: str = ""


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
    marks: tuple[tuple[str, str], ...] = (
        ("process.status", mark(head.status, head.started)),
        ("process.type", mark(head.type, head.started)),
    )
    if head.tags:
        marks += tagging.marks(head.tags, head.started)
    if head.notice is not None and head.notice.status == UNDELIVERED:
        return Put(ref, pack(head), due, (*marks, (NOTICE, mark(UNDELIVERED, head.started))))
    return Put(ref, pack(head), due, marks)
