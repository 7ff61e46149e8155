"""The ends of processes, told to whoever asked to be told.

The process's own cell is the outbox: the commit that ends the process says in it that its end is to
be told, and that it is due now. So there is no second cell to keep in step with the first, a
take-over finds it like anything else that is due, and a process that nobody is told of pays
nothing.

    end        the cell says `pending`, due at once
    due        this node sends it, and records what came of it: told, or when to try again
    given up   `undelivered`: shown, listed, and sent again when somebody asks

Sent at least once. The receiver knows it again by its `webhook-id`, which never changes.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from outlive import ids
from outlive.clock import MICROS
from outlive.errors import Conflict, NothingToNotify, NotifyRefused, OutliveError
from outlive.kinds.processes import FINAL, Command, Head, View, view_of
from outlive.kinds.processes.cells import Notice, put_head, read_head
from outlive.kinds.processes.vocabulary import UNDELIVERED
from outlive.kinds.processes.webhooks import Webhooks
from outlive.model import Batch, Cell, Require, shard_of
from outlive.runtime import outbound
from outlive.runtime.activation import Activation
from outlive.steps import step_key

if TYPE_CHECKING:
    from outlive.runtime.activations import Activations
    from outlive.runtime.commands import Commands

log = logging.getLogger("outlive")

SENDING_MAX = 32
"""Ends that one node tells at once; the others wait for their turn."""
RECORD_TRIES = 5
UNTOLD_SECONDS = 60.0
"""How long what this node cannot tell waits: nobody has given it a secret, or it does not know the
type."""
GONE_FOR_GOOD = (410,)
"""Answers after which nobody is asked again."""

Describe = Callable[[View], bytes]


class Notices:
    """What one node tells of the ends of its processes."""

    def __init__(self, node: Activations) -> None:
        self._node = node
        self._sending: set[str] = set()
        self.webhooks: Webhooks | None = None
        self.describe: Describe | None = None
        """Gives the public representation of a process."""

    def announce(self, head: Head, url: str) -> Head:
        """`head`, of a process that ends, as it says that this is to be told."""
        found = head.notice or Notice(url)
        return msgspec.structs.replace(head, notice=Notice(found.url, "pending"))

    def is_due(self, head: Head) -> bool:
        """Whether the cell of an ended process is due because its end is to be told."""
        return head.notice is not None and head.notice.status == "pending"

    def take(self, cell: Cell, head: Head) -> None:
        """Tell the end of the process in `cell`, unless it is being told. What has to wait for its
        turn is due again soon: it was only claimed."""
        if cell.key not in self._sending and len(self._sending) < SENDING_MAX:
            self._sending.add(cell.key)
            self._node.spawn(self._send(cell, head))

    async def again(
        self, to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
    ) -> None:
        """Tell the end of a process once more, from the first attempt on."""
        head = activation.head
        url = head.notice.url if head.notice is not None else activation.definition.notify
        if head.status not in FINAL or not url:
            raise NothingToNotify(
                f"Nobody is to be told of {activation.id}, which is {head.status}."
            )
        if activation.id in self._sending:
            await to.only_drop(activation, done)
            return
        now = self._node.clock.wall()
        pending = msgspec.structs.replace(head, notice=Notice(url, "pending"))
        await activation.append(head=pending, due=now, done=done)
        self._node.note_due(now)

    async def _send(self, cell: Cell, head: Head) -> None:
        try:
            await self._record(cell, await self._attempt(cell.key, head))
        except OutliveError as error:
            log.info("an end is told again later: %s", error.code)
        finally:
            self._sending.discard(cell.key)

    async def _attempt(self, id: str, head: Head) -> Head:
        """Tell it once; gives what is to be recorded of that."""
        notice, webhooks, now = head.notice, self.webhooks, self._node.clock.wall()
        assert notice is not None
        events = await self._node.store.events(head.stream)
        body = b"" if self.describe is None else self.describe(view_of(id, head, events))
        if webhooks is None:
            log.warning("the end of %s is not told: this node has no secret to sign with", id)
            late = now >= head.changed + self._kept(head)
            due = 0 if late else now + round(UNTOLD_SECONDS * MICROS)
            status = UNDELIVERED if late else "pending"
            return _said(head, Notice(notice.url, status, notice.attempts, "no secret", due))
        name = f"msg_{step_key(head.stream, 'notice')}"
        number = notice.attempts + 1
        told = self._node.clock.wall() // MICROS
        try:
            target = webhooks.target(notice.url)
            signed = webhooks.headers(name, told, body)
            answer = await outbound.post(webhooks, target, signed, body)
            said, well, final = f"HTTP {answer}", 200 <= answer < 300, answer in GONE_FOR_GOOD
        except (NotifyRefused, outbound.Unsafe):
            said, well, final = "refused: not a public address", False, False
        except ssl.SSLError:
            said, well, final = "TLS failed", False, False
        except (OSError, TimeoutError, outbound.NoAnswer) as error:
            said, well, final = type(error).__name__, False, False
        if well:
            return _said(head, Notice(notice.url, "delivered", number, said))
        if final or number >= webhooks.retry.attempts:
            log.warning("the end of %s was not delivered: %s", id, said)
            return _said(head, Notice(notice.url, UNDELIVERED, number, said))
        retry = webhooks.retry
        wait = ids.full_jitter(retry.base_seconds, retry.cap_seconds, number)
        due = self._node.clock.wall() + round(wait * MICROS)
        return _said(head, Notice(notice.url, "pending", number, said, due))

    def _kept(self, head: Head) -> int:
        """How long a process is kept once it has ended, in µs."""
        node = self._node
        return node.ended.micros(node.definitions.get((head.type, head.version)))

    async def _record(self, cell: Cell, head: Head) -> None:
        """What came of it, durably; beside what else was written into the cell meanwhile."""
        node, id, notice = self._node, cell.key, head.notice
        for _ in range(RECORD_TRIES):
            lease = node.leases.get(shard_of(id, node.store.shards))
            if lease is None or notice is None:
                return  # another node tells it
            kept = head.changed + self._kept(head)
            due = notice.due if self.is_due(head) else max(kept, node.clock.wall())
            put = put_head(cell.ref, head, due)
            require = (Require(cell.ref, cell.version),)
            try:
                await node.committer.submit(Batch(lease=lease, require=require, put=(put,)))
            except Conflict:  # it was forked meanwhile, which its cell says
                found = (await node.store.read((cell.ref,)))[0]
                if found is None or read_head(found.value).status not in FINAL:
                    return
                cell = found
                head = msgspec.structs.replace(read_head(cell.value), notice=notice)
                continue
            node.note_due(due)
            node.tell(id)
            return


def _said(head: Head, notice: Notice) -> Head:
    return msgspec.structs.replace(head, notice=notice)
