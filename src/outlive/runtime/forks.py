"""A process that begins with a part of another one's journal.

    of one that has ended       one commit: the new one is queued, the old one's cell names it
    of one that is under way    one commit of the old one's owner: its cancel, and the new one is
                                queued; the steps that go over are not undone by the old one
    begin                       one commit of the new one's owner: its start and all it takes over

Whoever dies between them leaves a queued process, which begins when its shard is taken over. What
it takes over never changes once it is recorded, so reading it later gives the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw, Struct

from outlive import ids
from outlive.errors import NotForkable
from outlive.kinds.processes import Command, Failure, Head
from outlive.kinds.processes.cells import Fork, put_head, ref_of
from outlive.kinds.processes.forking import taken_over
from outlive.kinds.processes.pending import told
from outlive.kinds.processes.requests import REQUESTS
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import Cancel, Ended, Forked, Started
from outlive.model import ERASED, Put, Ref
from outlive.runtime.control import demand_forkable

if TYPE_CHECKING:
    from outlive.model import Require
    from outlive.runtime.activation import Activation
    from outlive.runtime.commands import Commands


class Plan(Struct, frozen=True, omit_defaults=True, gc=False):
    """A fork of a process that is to be cancelled: the payload of its command."""

    id: str
    """The new process."""
    version: int
    input: Raw
    fork: Fork
    undoable: tuple[str, ...] = ()
    key: str = ""
    """The cell of its idempotency key; empty: it has none."""
    request: str = ""
    due: int = 0
    tags: Tags = ()

    def puts(self, type: str, now: int, shards: int) -> tuple[Put, ...]:
        """The cells of the new process: its own, the command to start it, its key."""
        stream = ids.internal_id(now)
        head = Head(
            stream, type, self.version, "queued", now, now,
            input=self.input, fork=self.fork, tags=self.tags,
        )  # fmt: skip
        own = put_head(ref_of(self.id, shards), head)
        start = told(Command("start", self.id), now, shards)
        if not self.key:
            return own, start
        return own, start, Put(Ref(REQUESTS, self.key), self.request.encode(), self.due)


read_plan = msgspec.json.Decoder(Plan).decode


async def fork(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    """Cancel it, and let another process go on with what it has done."""
    journal, plan = activation.journal, read_plan(command.payload)
    demand_forkable(activation.id, activation.head.status, journal, cancel=True)
    if plan.fork.stream != activation.head.stream:
        raise NotForkable(f"{activation.id} is in another era by now. Nothing was forked.")
    late = [id for id in plan.undoable if id in journal.undone]
    if late:
        raise NotForkable(f"{late[0]} was undone meanwhile. Nothing was forked.")
    resumed = activation.head.status in ("waiting", "paused", "stuck")
    head = activation.with_status("running") if resumed else None
    reason = f"{command.reason} (forked as {plan.id})".strip()
    event = Cancel(reason, command.who, fork=plan.id, kept=plan.undoable)
    node = activation.node
    new = plan.puts(activation.head.type, node.clock.wall(), node.store.shards)
    gate = to.decide(activation, event, head=head, done=done, new=new)
    activation.cancel()
    await to.durable(activation, gate)
    activation.run()


async def begin(to: Commands, activation: Activation, done: tuple[Require, ...]) -> None:
    """Let a fork begin: its start and what it takes over are one commit."""
    node, head, plan = activation.node, activation.head, activation.head.fork
    assert plan is not None
    events = await node.store.events(plan.stream, limit=plan.upto) if plan.upto else []
    if activation.journal.started is not None:  # another command was quicker
        await to.only_drop(activation, done)
        return
    started = Started(activation.id, head.type, head.version, head.input, node.name, tags=head.tags)
    if len(events) < plan.upto or (events and events[0].kind == ERASED):
        why = f"the journal of {plan.id} is not kept any more"
        ended = Ended("failed", error=Failure("NotForkable", why, NotForkable.code, False))
        due = node.clock.wall() + node.ended.micros(activation.definition)
        failed = activation.with_status("failed")
        await to.append(activation, started, ended, head=failed, due=due, done=done)
        return
    first = activation.journal.next_n + 1
    taken, times = taken_over(events, undo=plan.undo, first=first)
    began = events[0].time if events else head.started
    forked = Forked(plan.id, plan.stream, plan.step, began, times, plan.who, plan.why)
    running = activation.with_status("running")
    time = await to.append(activation, started, *taken, forked, head=running, done=done)
    activation.journal.times[""] = time
    activation.settled = set(activation.journal.waited)
    activation.recovered = False
    node.stats.started += 1
