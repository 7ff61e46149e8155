"""Who has their turn: the lines whose shards this node owns, kept moving.

    rung ──> a pass over the line: its cell, its places, its first tickets
               └── who may go: one commit takes their tickets and gives them places and the command
                   to begin (or a ticket in their next line), only if nobody gave turns meanwhile

The node that owns the shard of a line keeps it; another would do no harm, because the commit
requires the line's cell. It is rung by commits of this node in memory, by those of others (and
after a death) through a bell in the inbox of the shard. A bell is dropped at the version at which
it was heard, and only behind a pass: what was written after is never missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from outlive.clock import MICROS
from outlive.errors import Conflict
from outlive.kinds.processes import limits
from outlive.kinds.processes.cells import Command, Head
from outlive.kinds.processes.limits import Backlog, Line, Terms, Ticket, read_line, read_ticket
from outlive.kinds.processes.vocabulary import Admitted, Cancel, Ended, Failure, Started
from outlive.model import ABSENT, Batch, Cell, Put, Ref, Require, shard_of
from outlive.runtime.timers import Timer

if TYPE_CHECKING:
    from outlive.runtime.activation import Activation
    from outlive.runtime.activations import Activations

log = logging.getLogger("outlive")

TURNS_MAX = 256
"""Turns given by one commit."""
TRIES_MAX = 10
"""How often a pass begins again because another node gave turns meanwhile; its bell stays."""
LINES_PAGE = 1000
BACKLOG_LINES_MAX = 200
"""Lines that are counted for the metrics, of each up to a page of tickets."""
BACKLOG_SECONDS = 5.0


class Lines:
    """The lines of one node; used from one event loop."""

    def __init__(self, node: Activations) -> None:
        self._node = node
        self.obey: Callable[[Cell], Coroutine[Any, Any, None]] | None = None
        """Carries out a command that is for this node at once."""
        self._next: dict[str, asyncio.Task[None]] = {}
        """Passes that have not begun: they will see whatever is durable now."""
        self._current: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, Timer] = {}
        self._backlog: dict[str, Backlog] = {}
        self._counted_until = 0.0

    # --- ringing ----------------------------------------------------------------------------------

    def keeps(self, line: str) -> bool:
        """Whether this node owns the shard of `line`."""
        return shard_of(line, self._node.store.shards) in self._node.leases

    def bell_due(self, line: str) -> int:
        """When a bell is to be heard that is written now: at once by another node; by this one only
        if what is told in memory comes to nothing."""
        late = round(limits.BELL_SECONDS * MICROS) if self.keeps(line) else 0
        return self._node.clock.wall() + late

    def ring(self, line: str) -> None:
        """Look who can go in `line`, if it is kept here; what is durable by now is seen."""
        if self.keeps(line) and not self._node.draining and line not in self._next:
            self._node.spawn(self._passed(line))

    async def _passed(self, line: str) -> None:
        await asyncio.shield(self._pass(line))

    def gained(self, shard: int) -> None:
        """A shard is ours: its lines are looked over, because a limit may be another now."""
        if any(made.limits for made in self._node.definitions.values()):
            self._node.spawn(self._look_over(shard))

    async def _look_over(self, shard: int) -> None:
        after = ""
        while cells := await self._node.store.scan(limits.lines_space(shard), after, LINES_PAGE):
            after = cells[-1].key
            for cell in cells:
                self.ring(cell.key)

    async def answer(self, line: str, done: tuple[Require, ...]) -> None:
        """A bell of `line` was heard: one pass, then the bell goes, unless it was rung again."""
        await asyncio.shield(self._pass(line))
        batch = Batch(require=done, drop=tuple(cell.ref for cell in done))
        with suppress(Conflict):  # rung again meanwhile: it is heard again
            await self._node.committer.submit(batch)

    # --- what a process changes in its lines ------------------------------------------------------

    def moved(self, activation: Activation, before: Head) -> tuple[list[Put], tuple[Ref, ...]]:
        """What the commit that makes the head of a process another than `before` writes and drops
        in its lines."""
        head, shards = activation.head, self._node.store.shards
        freed, was_freed = head.status in limits.FREED, before.status in limits.FREED
        queued, was_queued = head.status == "queued", before.status == "queued"
        again = queued and (not was_queued or before.place != head.place)
        if not again and (not freed or was_freed):
            return [], ()
        puts: list[Put] = []
        drop = limits.taken_back(activation.id, before, shards)
        if again:
            terms = [limit.terms for limit in activation.definition.limits]
            puts.append(
                limits.ticket_put(activation.id, head.lines, terms, head.place, head.changed)
            )
            drop = tuple(ref for ref in drop if ref != puts[0].ref)
        for line in head.lines:
            puts.append(limits.bell(line, shards, self.bell_due(line), self._node.name))
        if any(map(self.keeps, head.lines)):
            self._node.spawn(self._ring_behind(head.lines))
        return puts, drop

    async def _ring_behind(self, lines: Sequence[str]) -> None:
        """Ring when everything that was handed over for commit before this call is durable."""
        await self._node.committer.submit(Batch())
        for line in lines:
            self.ring(line)

    async def has_place(self, id: str, head: Head) -> bool:
        """Whether a process has all the places it needs: it is wanted that somebody runs it."""
        if head.status in ("paused", "stuck"):
            return False
        if head.status != "queued":
            return True
        turn = limits.turn_ref(id, self._node.store.shards)
        return (await self._node.store.read((turn,)))[0] is not None

    async def begin(self, activation: Activation, done: tuple[Require, ...]) -> None:
        """A process that stands in line begins, if `done` names the command that its turn has come;
        without, it is only written down, so that what is told to it can be kept."""
        node, journal = self._node, activation.journal
        if not done:
            if journal.started is None:
                event = _started(activation, "", held=True)
                held = activation.with_status("queued")
                await node.commands.append(activation, event, head=held)
            return
        undoing = journal.compensating is not None
        status = "compensating" if undoing else "running"
        activation.recovered = journal.begun  # and then a step may have been under way before
        going = replace(activation.with_status(status), status=status)
        if journal.started is None:
            event = _started(activation, node.name)
            time = await node.commands.append(activation, event, head=going, done=done)
            activation.loaded = False
            node.stats.started += 1
        else:
            time = await node.commands.append(
                activation, Admitted(node.name), head=going, done=done
            )
        if not journal.records:
            journal.times[""] = time
        activation.run()

    async def cancelled(
        self, activation: Activation, command: Command, done: tuple[Require, ...]
    ) -> bool:
        """Cancel who has no place; False when it has one.

        Who has never begun ends at once. Who has, and must undo what it did, is the next to go.
        """
        node, journal = self._node, activation.journal
        if activation.head.status not in ("queued", "paused", "stuck"):
            return False
        event = Cancel(command.reason, command.who)
        if journal.begun:
            head = limits.to_the_front(activation.with_status("running"))
            await node.commands.append(activation, event, head=head, done=done)
            return True
        ended = Ended("cancelled", error=_failure(command.reason))
        head = activation.with_status("cancelled")
        due = node.clock.wall() + node.ended.micros(activation.definition)
        await node.commands.append(activation, event, ended, head=head, due=due, done=done)
        activation.tell_end(ended)
        node.stats.ended["cancelled"] = node.stats.ended.get("cancelled", 0) + 1
        return True

    async def backlog(self) -> dict[str, Backlog]:
        """What waits in the lines that this node keeps, by type: as far as is counted, and asked of
        the store at most once in `BACKLOG_SECONDS`."""
        now = self._node.clock.boot()
        if now >= self._counted_until:
            self._counted_until = now + BACKLOG_SECONDS
            self._backlog = await self._count()
        return self._backlog

    async def _count(self) -> dict[str, Backlog]:
        found: dict[str, Backlog] = {}
        if not any(made.limits for made in self._node.definitions.values()):
            return found
        store, now = self._node.store, self._node.clock.wall()
        spaces = [limits.lines_space(shard) for shard in self._node.leases]
        used = await store.select(spaces, limits.LINES_MARK, "", "~", BACKLOG_LINES_MAX)
        for line, _ in used:
            tickets = await store.scan(limits.tickets_of(line), limit=LINES_PAGE)
            if tickets:
                since = min(read_ticket(cell.value).since for cell in tickets)
                name = limits.type_of(line)[0]
                had = found.get(name, Backlog(0, 0.0))
                oldest = max(had.oldest_seconds, (now - since) / MICROS)
                found[name] = Backlog(had.waiting + len(tickets), oldest)
        return found

    # --- passes -----------------------------------------------------------------------------------

    def _pass(self, line: str) -> asyncio.Task[None]:
        """A pass that has not begun yet: one for all who ask meanwhile."""
        found = self._next.get(line)
        if found is None:
            found = self._next[line] = self._node.spawn(self._pass_behind(line))
        return found

    async def _pass_behind(self, line: str) -> None:
        while (current := self._current.get(line)) is not None:
            await asyncio.wait((current,))
        task = self._current[line] = self._next.pop(line)
        try:
            await self._give_turns(line)
        finally:
            if self._current.get(line) is task:
                del self._current[line]

    async def _give_turns(self, line: str) -> None:
        tries = 0
        while tries < TRIES_MAX and not self._node.draining:
            try:
                if not await self._give_some(line):
                    return
            except Conflict:
                tries += 1
        who = "by another node as well" if tries else "on by whoever comes behind this node"
        raise Conflict(f"{line} is kept {who}; its bell stays.")

    async def _give_some(self, line: str) -> bool:
        """One commit of turns; whether there may be more to give. Raises `Conflict`: look again."""
        node, store, shards = self._node, self._node.store, self._node.store.shards
        ref = limits.line_ref(line, shards)
        cell = (await store.read((ref,)))[0]  # before the places are counted: they become fewer
        state = Line() if cell is None else read_line(cell.value)
        now = await store.now()
        waiting = await store.scan(limits.tickets_of(line), limit=TURNS_MAX)
        terms = self._terms(line, waiting)
        running = 0
        if terms.concurrency is not None:
            found = await store.scan(limits.places_of(line), limit=terms.concurrency)
            running = len(found)
        go, after, again = limits.turns(terms, state, running, len(waiting), now)
        if not go:
            await self._rest(line, cell, after, again, bool(waiting or running), terms)
            return False
        require = [Require(ref, ABSENT if cell is None else cell.version)]
        tickets = waiting[:go]
        require += [Require(ticket.ref, ticket.version) for ticket in tickets]
        puts, told = self._turns(line, tickets, terms, now)
        if again is not None:
            after = replace(after, bell=again)
            puts.append(limits.bell(line, shards, again, "rate"))
        puts.append(limits.line_put(ref, after))
        batch = Batch(
            require=tuple(require), put=tuple(puts), drop=tuple(found.ref for found in tickets)
        )
        committed = await node.committer.submit(batch)
        node.stats.turns += go
        for at, next_line in told.items():
            if next_line:
                self.ring(next_line)
            elif self.obey is not None and not node.draining:
                put = puts[at]
                command = Cell(put.ref.space, put.ref.key, put.value, committed.versions[at])
                node.spawn(self.obey(command))
        if again is not None:
            self._look_at(line, again)
        return go == len(waiting) == TURNS_MAX

    def _turns(
        self, line: str, tickets: Sequence[Cell], terms: Terms, now: int
    ) -> tuple[list[Put], dict[int, str]]:
        """What gives those their turn; and which of it is to be told in this node: the next line,
        or (empty) a command to begin."""
        shards, leases = self._node.store.shards, self._node.leases
        puts: list[Put] = []
        told: dict[int, str] = {}
        later = now + round(limits.BELL_SECONDS * MICROS)
        rung: set[str] = set()
        for cell in tickets:
            ticket = read_ticket(cell.value)
            if terms.concurrency is not None:
                puts.append(Put(Ref(limits.places_of(line), ticket.id), b"{}"))
            at = ticket.at + 1
            if at == len(ticket.lines):
                ours = shard_of(ticket.id, shards) in leases
                if ours:
                    told[len(puts)] = ""
                puts.append(limits.turn(ticket.id, shards, later if ours else now))
                continue
            place = cell.key.partition("/")[0]
            put = limits.ticket_put(ticket.id, ticket.lines, ticket.terms, place, ticket.since, at)
            puts.append(put)
            following = ticket.lines[at]
            if following not in rung:
                rung.add(following)
                told[len(puts)] = following
                due = later if self.keeps(following) else now
                puts.append(limits.bell(following, shards, due, f"{self._node.name}-next"))
        return puts, told

    async def _rest(
        self, line: str, cell: Cell | None, after: Line, again: int | None, used: bool, terms: Terms
    ) -> None:
        """Nobody can go: see to it that the line is looked at when its rate lets somebody, and that
        one which is not used leaves nothing behind."""
        if cell is None:
            return
        ref, require = cell.ref, (Require(cell.ref, cell.version),)
        if not used and after.begun:
            again = after.begun[-1][0] + terms.period
        if again is not None and after.bell != again:
            bell = limits.bell(line, self._node.store.shards, again, "rate")
            put = limits.line_put(ref, replace(after, bell=again))
            await self._node.committer.submit(Batch(require=require, put=(put, bell)))
        elif not used and again is None:
            await self._node.committer.submit(Batch(require=require, drop=(ref,)))
        if again is not None and used:
            self._look_at(line, again)

    def _look_at(self, line: str, due: int) -> None:
        if (timer := self._timers.pop(line, None)) is not None:
            timer.cancel()

        def look() -> None:
            self._timers.pop(line, None)
            self.ring(line)

        self._timers[line] = self._node.timers.at(due, look)

    def _terms(self, line: str, waiting: Sequence[Cell]) -> Terms:
        """What is declared here about the type in its newest version; where it is not declared,
        what the first ticket says. A limit that is not declared any more limits nothing."""
        name, at = limits.type_of(line)
        newest = max(
            (made for made in self._node.definitions.values() if made.name == name),
            key=lambda made: made.version,
            default=None,
        )
        if newest is not None:
            return newest.limits[at].terms if at < len(newest.limits) else Terms()
        if not waiting:
            return Terms(limits.CONCURRENCY_MAX)
        ticket: Ticket = read_ticket(waiting[0].value)
        return ticket.terms[at] if at < len(ticket.terms) else Terms()


def _started(activation: Activation, node: str, *, held: bool = False) -> Started:
    head = activation.head
    return Started(
        activation.id, head.type, head.version, head.input, node,
        parent=head.parent, detached=head.detached, held=held, trace=head.trace, tags=head.tags,
    )  # fmt: skip


def _failure(reason: str) -> Failure:
    return Failure("Cancelled", reason or "cancelled", retryable=False)
