"""A process that comes from another store: its cell and its whole journal, by one commit.

It is paused here, or has ended; nothing runs before somebody says so. Only the owner of a shard may
append to it, so an import is a command, carried out by that node.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from outlive.errors import AlreadyThere, Conflict, Fenced, StreamConflict
from outlive.kinds.processes import FINAL, Command
from outlive.kinds.processes.cells import put_head, ref_of
from outlive.kinds.processes.transfer import arrival, exported_from
from outlive.model import ABSENT, Append, Batch, Require, shard_of

if TYPE_CHECKING:
    from outlive.runtime.activations import Activations


async def take_in(node: Activations, command: Command, done: tuple[Require, ...]) -> None:
    """Carry out an import; durable when this returns.

    Raises `AlreadyThere`, `BadJournal`, `Fenced`, or what the store raises: nothing was written.
    """
    shards = node.store.shards
    lease, ref = node.leases.get(shard_of(command.id, shards)), ref_of(command.id, shards)
    if lease is None:
        raise Fenced(f"{command.id} does not belong on this node; its import waits for the owner.")
    if (await node.store.read((ref,)))[0] is not None:
        raise AlreadyThere(f"There is a process {command.id} already.")
    exported = await asyncio.to_thread(exported_from, command.payload)
    now = node.clock.wall()
    head, events = arrival(exported, now)
    made = node.definitions.get((head.type, head.version))
    due = now + node.ended.micros(made) if head.status in FINAL else None
    batch = Batch(
        lease=lease,
        require=(Require(ref, ABSENT), *done),
        put=(put_head(ref, head, due),),
        drop=tuple(cell.ref for cell in done),
        append=tuple(Append(head.stream, n, kind, data) for n, (kind, data) in enumerate(events)),
    )
    try:
        await node.committer.submit(batch)
    except StreamConflict as error:
        raise AlreadyThere(f"The journal of {command.id} is there already.") from error
    except Conflict as error:
        if error.facts.get("ref") != ref:
            raise  # the command is another's by now
        raise AlreadyThere(f"There is a process {command.id} already.") from error
    if due is not None:
        node.note_due(due)
    node.tell(command.id)
