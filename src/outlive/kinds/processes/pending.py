"""What is wanted of a process before any node has acted on it: cells, and no event.

A start is two cells: the process's own, which says `queued` and holds the input, and a command in
the inbox of its shard. Where its type has limits it is a ticket in a line instead of the command,
which is written when its turn has come (limits.py). A signal is a command. The node that owns the
shard claims the command and drops it in the very commit that carries it out, so each is done once.

Whoever writes these cells needs no shard: a node on behalf of another, or a caller's own
transaction.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from outlive import ids
from outlive.codec import digest
from outlive.kinds.processes.definition import Definition
from outlive.kinds.processes.limits import bell, lines_of, place_in_line, ticket_put
from outlive.kinds.processes.vocabulary import Command, Head, inbox_of, pack, put_head, ref_of
from outlive.model import Put, Ref, shard_of


def queued(
    made: Definition,
    id: str,
    raw: bytes,
    now: int,
    shards: int,
    *,
    priority: int = 0,
    bell_due: int | None = None,
    ringer: str = "",
    trace: str = "",
) -> tuple[Put, ...]:
    """The cells of a process that is to be started: its own, and the command to start it.

    Of a type with limits: its own, its ticket in the first line, and that line's bell, which is
    due at `bell_due` (without: now), in the name of `ringer` (without: a new one).
    """
    stream = ids.internal_id(now)
    head = Head(stream, made.name, made.version, "queued", now, now, "", Raw(raw), trace=trace)
    if not made.limits:
        return put_head(ref_of(id, shards), head), told(Command("start", id), now, shards)
    lines = lines_of(made, made.input_type.read(raw))
    place = place_in_line(now, priority)
    head = msgspec.structs.replace(head, lines=lines, place=place)
    terms = [limit.terms for limit in made.limits]
    return (
        put_head(ref_of(id, shards), head),
        ticket_put(id, lines, terms, place, now),
        bell(lines[0], shards, now if bell_due is None else bell_due, ringer or ids.token()),
    )


def told(command: Command, now: int, shards: int, mark: str = "") -> Put:
    """The cell of a command. Commands with the same key share a cell; `mark` keeps those of
    different writers apart."""
    key = mark + digest(command.key.encode()) if command.key else ids.token()
    ref = Ref(inbox_of(shard_of(command.id, shards)), f"{command.id}/{key}")
    return Put(ref, pack(command), now)
