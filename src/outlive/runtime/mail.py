"""What one process asks of another: it leaves with a commit, and is done at once where both live.

A start, a cancel, the news of an end or a published event is a command in a cell of the inbox of
the shard in which it is to be carried out. The cell is written by the very commit that decided it,
so it is there exactly if that is; and it is dropped by the commit that carries it out.

    far     the shard is another node's: its pump finds the cell by the store's hint
    near    the shard is ours: the cell is due only after `NEAR_SECONDS`, as if it had been claimed,
            and is carried out as soon as the commit has come back; if this node dies over it, the
            next owner finds it when that time has passed. The pump leaves it alone meanwhile: what
            one of two has decided and not made durable, the other must not take for done

Nothing is asked of the store on the near way but the commit that drops the cell.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from msgspec import Raw
from msgspec.structs import replace

from outlive.clock import MICROS
from outlive.errors import OutliveError, ProcessError
from outlive.kinds.processes import Command, Definition, Head
from outlive.kinds.processes.cells import key_digests, put_head, ref_of
from outlive.kinds.processes.pending import Wish, queued, queued_head, told
from outlive.kinds.processes.undelivered import undelivered
from outlive.kinds.processes.vocabulary import Ended, pack
from outlive.model import Batch, Committed, Put, Require, shard_of

if TYPE_CHECKING:
    from outlive.runtime.activation import Activation
    from outlive.runtime.activations import Activations

log = logging.getLogger("outlive")

NEAR_SECONDS = 2.0
"""How long a command for our own shard waits if this node dies over it."""


class Mail:
    """Commands that leave with one commit of a node; `due` is a time of the store's that has
    passed."""

    def __init__(self, node: Activations, due: int) -> None:
        self._node = node
        self._due = due
        self._near: list[tuple[int, Command, Head | None]] = []
        self.puts: list[Put] = []

    def send(self, command: Command, head: Head | None = None) -> None:
        """Ask something of the process `command.id`; `head`: that of a process that it begins."""
        node = self._node
        due = self._due
        if shard_of(command.id, node.store.shards) in node.leases and not node.draining:
            due = node.clock.wall() + round(NEAR_SECONDS * MICROS)
            self._near.append((len(self.puts), command, head))
        self.puts.append(told(command, due, node.store.shards))

    def start(
        self, made: Definition, id: str, raw: Raw, *, parent: str = "", detached: bool = False
    ) -> None:
        """Start a process in whichever shard `id` lies: it is queued by the commit.

        Raises `TagInvalid` when a tag cannot be had from its input.
        """
        node = self._node
        tags = made.tags_of(made.input_type.read(raw)) if made.tags else ()
        wish = Wish(parent=parent, detached=detached, tags=tags)
        now, shards = node.clock.wall(), node.store.shards
        if made.limits:
            self.puts.extend(queued(made, id, raw, self._due, shards, wish))
            return
        head = queued_head(made, raw, now, wish)
        self.puts.append(put_head(ref_of(id, shards), head))
        self.send(Command("start", id), head)

    async def post(self, batch: Batch) -> Committed:
        """Commit `batch`, whose last puts are this mail's. Raises what refused it.

        Whoever waits for it may be cancelled: what was committed is carried out all the same.
        """
        return await asyncio.shield(self.hand_over(batch))

    def hand_over(self, batch: Batch) -> asyncio.Future[Committed]:
        """The first half of `post`: the gate of `batch`."""
        future = self._node.committer.submit(batch, patient=True)
        self._node.obeying.update(self.puts[at].ref.key for at, _, _ in self._near)
        future.add_done_callback(self._posted)
        return future

    def _posted(self, future: asyncio.Future[Committed]) -> None:
        if future.cancelled() or future.exception() is not None:
            keys = (self.puts[at].ref.key for at, _, _ in self._near)
            self._node.obeying.difference_update(keys)
            return
        versions = future.result().versions[-len(self.puts) :]
        for at, command, head in self._near:
            cell = Require(self.puts[at].ref, versions[at])
            self._node.spawn(_carry_out(self._node, command, head, cell))


def last_words(activation: Activation, ended: Ended) -> tuple[Head, int, Mail | None]:
    """What the cell of a process says that ends, until when, and what goes to its parent."""
    node, made = activation.node, activation.definition
    due = node.clock.wall() + node.ended.micros(made)
    head = activation.with_status(ended.status)
    if activation.journal.keys:
        head = replace(head, keys=key_digests(activation.journal.keys))
    if head.notice is not None or made.notify:
        head = node.notices.announce(head, made.notify)
        due = head.changed
    mail = news_of(activation, ended) if head.parent and not head.detached else None
    return head, due, mail


def news_of(activation: Activation, ended: Ended) -> Mail:
    """The news of the end of a child, for its parent."""
    mail = Mail(activation.node, activation.journal.times.get("", 0))
    payload, child = Raw(pack(ended)), activation.id
    mail.send(Command("ended", activation.head.parent, child, payload, child))
    return mail


async def _carry_out(node: Activations, command: Command, head: Head | None, cell: Require) -> None:
    """Do here what was committed here; what fails is left to the pump, when its cell is due."""
    try:
        if node.draining:
            return
        if head is not None:
            await node.begin_queued(command.id, head, (cell,))
        else:
            await node.commands.obey(command, (cell,))
    except ProcessError as error:
        log.info("a command was not carried out: %s", error.code)
        if not error.retryable:
            puts = undelivered(command, error.detail, node.clock.wall(), node.retention)
            await node.committer.submit(Batch(require=(cell,), drop=(cell.ref,), put=puts))
    except OutliveError as error:
        log.info("a command is tried again later: %s", error.code)
    finally:
        node.obeying.discard(cell.ref.key)
