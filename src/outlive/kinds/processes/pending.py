"""What is wanted of a process before any node has acted on it: cells, and no event.

A start is two cells: the process's own, which says `queued` and holds the input, and a command in
the inbox of its shard. A signal is a command. The node that owns the shard claims the command and
drops it in the very commit that carries it out, so each is done once.

Whoever writes these cells needs no shard: a node on behalf of another, or a caller's own
transaction.
"""

from __future__ import annotations

from msgspec import Raw

from outlive import ids
from outlive.codec import digest
from outlive.kinds.processes.definition import Definition
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import Command, Head, inbox_of, pack, put_head, ref_of
from outlive.model import Put, Ref, shard_of


def queued(
    made: Definition, id: str, raw: bytes, now: int, shards: int, tags: Tags = ()
) -> tuple[Put, Put]:
    """The cells of a process that is to be started: its own, and the command to start it."""
    head = Head(
        ids.internal_id(now), made.name, made.version, "queued", now, now, "", Raw(raw), tags
    )
    return put_head(ref_of(id, shards), head), told(Command("start", id), now, shards)


def told(command: Command, now: int, shards: int, mark: str = "") -> Put:
    """The cell of a command. Commands with the same key share a cell; `mark` keeps those of
    different writers apart."""
    key = mark + digest(command.key.encode()) if command.key else ids.token()
    ref = Ref(inbox_of(shard_of(command.id, shards)), f"{command.id}/{key}")
    return Put(ref, pack(command), now)
