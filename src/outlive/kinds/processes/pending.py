"""What is wanted of a process before any node has acted on it: cells, and no event.

A start is two cells: the process's own, which says `queued` and holds the input, and a command in
the inbox of its shard. Where its type has limits it is a ticket in a line instead of the command,
which is written when its turn has come (limits.py). A signal is a command. The node that owns the
shard claims the command and drops it in the very commit that carries it out, so each is done once.

Whoever writes these cells needs no shard: a node on behalf of another, or a caller's own
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from outlive import ids
from outlive.codec import digest
from outlive.kinds.processes.cells import Command, Head, Notice, inbox_of, put_head, ref_of
from outlive.kinds.processes.definition import Definition
from outlive.kinds.processes.limits import bell, lines_of, place_in_line, ticket_put
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import pack
from outlive.model import Put, Ref, shard_of


class Wish(Struct, frozen=True):
    """What is wished for beside the input of a process that is to be started."""

    notify: str = ""
    """Who is told of its end."""
    priority: int = 0
    trace: str = ""
    """The trace context of whoever starts it."""
    parent: str = ""
    detached: bool = False
    tags: Tags = ()
    """What it is found by: those of the declaration, and those that are given."""
    given: Mapping[str, Any] | None = None
    """The tags that the caller gives."""


PLAIN = Wish()


def queued(
    made: Definition,
    id: str,
    raw: bytes,
    now: int,
    shards: int,
    wish: Wish = PLAIN,
    *,
    bell_due: int | None = None,
    ringer: str = "",
) -> tuple[Put, ...]:
    """The cells of a process that is to be started: its own, and the command to start it.

    Of a type with limits: its own, its ticket in the first line, and that line's bell, which is
    due at `bell_due` (without: now), in the name of `ringer` (without: a new one).
    """
    head = queued_head(made, raw, now, wish)
    if not made.limits:
        return put_head(ref_of(id, shards), head), told(Command("start", id), now, shards)
    lines, place = head.lines, head.place
    terms = [limit.terms for limit in made.limits]
    return (
        put_head(ref_of(id, shards), head),
        ticket_put(id, lines, terms, place, now),
        bell(lines[0], shards, now if bell_due is None else bell_due, ringer or ids.token()),
    )


def queued_head(made: Definition, raw: bytes, now: int, wish: Wish = PLAIN) -> Head:
    """What the cell of a process says that is to be started."""
    head = Head(
        ids.internal_id(now), made.name, made.version, "queued", now, now, "", Raw(raw),
        Notice(wish.notify) if wish.notify else None,
        parent=wish.parent, detached=wish.detached, trace=wish.trace, tags=wish.tags,
    )  # fmt: skip
    if not made.limits:
        return head
    lines = lines_of(made, made.input_type.read(raw))
    return msgspec.structs.replace(head, lines=lines, place=place_in_line(now, wish.priority))


def told(command: Command, now: int, shards: int, mark: str = "") -> Put:
    """The cell of a command. Commands with the same key share a cell; `mark` keeps those of
    different writers apart."""
    key = mark + digest(command.key.encode()) if command.key else ids.token()
    ref = Ref(inbox_of(shard_of(command.id, shards)), f"{command.id}/{key}")
    return Put(ref, pack(command), now)
