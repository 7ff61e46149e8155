"""What reaches a process from outside: told to it by the node that owns it.

    signal     kept in its journal; ends the wait for it, if there is one
    update     the same, and answered; callback: the same, once (deliveries.py)
    cancel     recorded, and what runs is interrupted
    retry      what has given up is tried afresh
    ended      a child has: its parent records how, and goes on
    start      a process that was queued begins
    notify     its end is told once more (notices.py)
    import     a process comes from another store, with its journal (imports.py)
    pause, resume, hasten, skip, deadline, fork     what operators ask (control.py, forks.py)

A command comes straight from this node, or out of the inbox of its shard; then its cell is dropped
by the very commit that carries it out, so it is done once. Each verb is a function of its own in
`VERBS`; it decides in one turn of the event loop, so it needs no lock, and awaits its commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from outlive.errors import (
    Fenced,
    NoSuchProcess,
    NotStuck,
    OutliveError,
    PastPivot,
    ProcessGone,
    ProcessTerminal,
    TooManySignals,
)
from outlive.kinds.processes import FINAL, Command, Head
from outlive.kinds.processes.cells import read_head, ref_of
from outlive.kinds.processes.vocabulary import GONE, HALTED, LIVE, Cancel, Resumed, Signal, Started
from outlive.model import ABSENT, Batch, Committed, Put, Require
from outlive.runtime import control, deliveries, forks, imports
from outlive.runtime.activation import Activation
from outlive.runtime.offspring import take_news
from outlive.runtime.publications import deliver

if TYPE_CHECKING:
    from outlive.runtime.activations import Activations
    from outlive.runtime.mail import Mail

SIGNALS_WAITING_MAX = 1000
"""Signals of one process that no wait has taken yet."""


class Commands:
    """The commands to the processes of one node."""

    def __init__(self, node: Activations) -> None:
        self._node = node
        self.lines = node.lines

    async def obey(self, command: Command, done: tuple[Require, ...] = ()) -> None:
        """Do what is asked of a process that this node owns; durable when this returns.

        `done` names the inbox cell of the command at its version, dropped by the same commit.
        Raises a `ProcessError` when it cannot be done, or the store's refusal: nothing was written.
        """
        node = self._node
        if command.kind == "publish":
            await deliver(node, command, done)
            return
        await node.recovery.passed(command.id)
        if command.kind == "import":
            await imports.take_in(node, command, done)
            return
        activation = await node.load(command.id)
        if activation is None:
            raise await self._out_of_reach(command.id)
        activation.users += 1
        try:
            while activation.transacting is not None:
                await asyncio.shield(activation.transacting)
            if activation.journal.started is None and command.kind != "start":
                await self.begin(activation, ())
            await VERBS[command.kind](self, activation, command, done)
        finally:
            activation.users -= 1
            node.put_down_idle(activation)

    async def _out_of_reach(self, id: str) -> OutliveError:
        """Why a command is not for this node: no such process (any more), or another's turn."""
        cell = (await self._node.store.read((ref_of(id, self._node.store.shards),)))[0]
        if cell is None:
            return NoSuchProcess(f"There is no process {id}.")
        if read_head(cell.value).status == GONE:
            return ProcessGone(f"Process {id} ended and is past its retention.")
        return Fenced(f"{id} does not live on this node; its command waits for the node that can.")

    async def begin(self, activation: Activation, done: tuple[Require, ...]) -> None:
        """Let a queued process begin: its first event, and its body runs.

        One that stands in line begins with the command (`done`) that its turn has come."""
        head = activation.head
        if head.lines and head.status == "queued":
            await self._node.lines.begin(activation, done)
            return
        if activation.journal.started is not None:
            await self.only_drop(activation, done)
            if head.status not in LIVE:
                return
        elif head.fork is not None:
            await forks.begin(self, activation, done)
            if activation.head.status not in LIVE:
                return
        else:
            raw = head.input
            running = activation.with_status("running")
            event = Started(
                activation.id, head.type, head.version, raw, self._node.name,
                parent=head.parent, detached=head.detached, trace=head.trace, tags=head.tags,
            )  # fmt: skip
            time = await self.append(activation, event, head=running, done=done)
            activation.journal.times[""] = time
            activation.loaded = activation.recovered = False
            self._node.stats.started += 1
        activation.run()

    async def append(
        self,
        activation: Activation,
        *events: Any,
        head: Head | None = None,
        due: int | None = None,
        done: tuple[Require, ...] = (),
        mail: Mail | None = None,
    ) -> int:
        """Record `events` of a process; gives the time of the commit. Raises what refused it."""
        gate = self.decide(activation, *events, head=head, due=due, done=done, mail=mail)
        return await self.durable(activation, gate)

    def decide(
        self,
        activation: Activation,
        *events: Any,
        head: Head | None = None,
        due: int | None = None,
        done: tuple[Require, ...] = (),
        new: tuple[Put, ...] = (),
        mail: Mail | None = None,
    ) -> asyncio.Future[Committed]:
        """The first half of `append`: from here on it is so in memory. `new`: cells that are made
        by the same commit; `mail` leaves with it."""
        if self._node.committer.stalled is not None:
            raise self._node.committer.stalled  # decided before anything is changed in memory
        if activation.gone:
            raise Fenced(f"{activation.id} has just left this node; nothing was written.")
        batch = activation.batch(events, head, due, done)
        if new:
            batch = replace(
                batch,
                put=(*batch.put, *new),
                require=(*batch.require, *(Require(put.ref, ABSENT) for put in new)),
            )
        if mail is not None:
            return mail.hand_over(replace(batch, put=(*batch.put, *mail.puts)))
        return self._node.committer.submit(batch, patient=True)

    async def durable(self, activation: Activation, gate: asyncio.Future[Committed]) -> int:
        """The second half: gives the time of the commit. Whoever asked may be cancelled meanwhile:
        a refusal is heard all the same."""
        try:
            committed = await asyncio.shield(gate)
        except asyncio.CancelledError:
            gate.add_done_callback(lambda gate: self._heard_late(activation, gate))
            raise
        except OutliveError as error:
            self._node.lost(activation, error)
            raise
        self._node.tell(activation.id)
        return committed.time

    def _heard_late(self, activation: Activation, gate: asyncio.Future[Committed]) -> None:
        error = None if gate.cancelled() else gate.exception()
        if isinstance(error, OutliveError):
            self._node.lost(activation, error)
        else:
            self._node.tell(activation.id)

    async def only_drop(self, activation: Activation, done: tuple[Require, ...]) -> None:
        """Nothing is to be done any more, since it is decided: said when that is durable, and then
        the command's cell goes. Raises `Fenced` when it was not."""
        gate = self._node.committer.submit(Batch(lease=activation.lease), patient=True)
        await self.durable(activation, gate)
        if activation.gone and activation.head.status not in FINAL:
            raise Fenced(f"{activation.id} has just left this node; nothing was written.")
        if done:
            await self._node.committer.submit(
                Batch(lease=activation.lease, require=done, drop=tuple(cell.ref for cell in done))
            )


# --- the verbs ------------------------------------------------------------------------------------


async def _start(
    to: Commands, activation: Activation, _: Command, done: tuple[Require, ...]
) -> None:
    await to.begin(activation, done)


async def _signal(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    journal = activation.journal
    if command.key and command.key in journal.keys:
        await to.only_drop(activation, done)
        return
    demand_open(activation)
    payload = activation.definition.signal_payload(command.name, bytes(command.payload))
    if journal.waiting_signals() >= SIGNALS_WAITING_MAX:
        raise TooManySignals(
            f"{SIGNALS_WAITING_MAX} signals wait for {activation.id}; this one was not kept."
        )
    event = Signal(command.name, payload, command.key, command.trace)
    await deliveries.deliver(to, activation, command.name, event, done)


async def _cancel(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    journal = activation.journal
    demand_open(activation)
    if journal.pivoted:
        raise PastPivot(f"{activation.id} is past its pivot; it was not cancelled.")
    if journal.cancel is not None or journal.compensating is not None:
        await to.only_drop(activation, done)
        return
    if activation.head.lines and await to.lines.cancelled(activation, command, done):
        return
    resumed = activation.head.status in ("waiting", "paused", "stuck")
    head = activation.with_status("running") if resumed else None
    await to.append(activation, Cancel(command.reason, command.who), head=head, done=done)
    activation.cancel()
    activation.run()


async def _retry(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    demand_open(activation)
    if activation.head.status not in ("stuck", "paused"):
        raise NotStuck(f"{activation.id} is {activation.head.status}; it was left as it is.")
    undoing = activation.journal.compensating is not None
    head = activation.with_status("compensating" if undoing else "running")
    await to.append(activation, Resumed(command.who, command.reason), head=head, done=done)
    activation.run()


async def _ended(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    taken = take_news(activation, command)
    if taken is None:
        await to.only_drop(activation, done)
        return
    time = await to.append(activation, taken.event, head=taken.head, done=done)
    taken.let_go_on(time)
    if activation.head.status not in HALTED:
        activation.run()


def demand_open(activation: Activation) -> None:
    """Raise `ProcessTerminal` when it has ended."""
    if activation.head.status in FINAL:
        raise ProcessTerminal(f"{activation.id} has ended: {activation.head.status}.")


async def _notify(
    to: Commands, activation: Activation, command: Command, done: tuple[Require, ...]
) -> None:
    await activation.node.notices.again(to, activation, command, done)


Verb = Callable[[Commands, Activation, Command, tuple[Require, ...]], Awaitable[None]]
VERBS: Mapping[str, Verb] = {
    "start": _start,
    "signal": _signal,
    "update": deliveries.update,
    "callback": deliveries.callback,
    "cancel": _cancel,
    "deadline": control.deadline,
    "fork": forks.fork,
    "hasten": control.hasten,
    "pause": control.pause,
    "resume": control.resume,
    "retry": _retry,
    "notify": _notify,
    "ended": _ended,
    "skip": control.skip,
}
