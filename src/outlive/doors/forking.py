"""A process forked from another: how an application is asked for one, on any node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from msgspec import Raw
from msgspec.structs import replace

from outlive import codec, ids
from outlive.clock import MICROS
from outlive.doors.controlling import GIVEN, WHO_CHARACTERS_MAX, WHY_CHARACTERS_MAX, Controlling
from outlive.errors import Conflict, NoSuchProcess, NotForkable, ProcessGone
from outlive.handle import Handle
from outlive.kinds.processes import FINAL, Command, Definition, Head, Journal
from outlive.kinds.processes.activity import Noted
from outlive.kinds.processes.cells import Fork, put_head, read_head, ref_of
from outlive.kinds.processes.definition import input_error
from outlive.kinds.processes.forking import Share, share_of
from outlive.kinds.processes.requests import request_of, started_by
from outlive.kinds.processes.tags import Tags
from outlive.kinds.processes.vocabulary import GONE, Started, unpack
from outlive.model import ABSENT, Batch, Cell, Put, Require
from outlive.runtime import control
from outlive.runtime.forks import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outlive.app import Outlive
    from outlive.model import Event

FORKS_MAX = 100
"""Forks of one process after its end."""
TRIES_MAX = 10
"""How often a fork is decided anew because the old process's cell has changed meanwhile."""
OWNER_SECONDS = 10.0
"""How long the owner of a process that is to be cancelled is waited for."""


class Forking(Controlling):
    """The fork of a process."""

    _request_seconds: float

    async def fork(
        self,
        id: str,
        at: str,
        *,
        input: Any = GIVEN,
        version: int | None = None,
        cancel: bool = False,
        key: str | None = None,
        who: str = "",
        why: str = "",
    ) -> Handle[Any]:
        """Start a process that begins with what another has recorded before its step `at`; durable
        when this returns.

        `at`: a step, wait or sleep as the process shows it; it and all behind it is done anew,
        under keys of the new process. Signals that had come before it are taken over. `input`: the
        new one's input, the old one's when it is not given. `version`: the old one's when it is not
        given. `cancel`: one that has not ended is cancelled in the same commit; what goes over is
        not undone by it, but by the new one, should that roll back. What goes over from one that is
        done is never undone. `key`: a fork repeated with the same key and input gives the same
        process.

        Raises `NoSuchProcess`, `NoSuchStep`, `NotForkable`, `RollingBack`, `PastPivot`,
        `TooLargeToFork` (10,000 events, 8 MiB), `InvalidInput`, `KeyReused`; nothing was started.
        """
        store = self.store
        for _ in range(TRIES_MAX):
            cell, head = await self._cell(id)
            events = await store.events(head.stream)
            version = head.version if version is None else version
            made = self._all.get((head.type, version))
            if made is None and any(name == head.type for name, _ in self._all):
                raise NotForkable(f"Version {version} of {head.type} is not declared here.")
            raw = _input_of(made, events, head, input)
            tags = _tags_of(made, events, head, None if input is GIVEN else raw)
            shard = None
            if self._runtime is not None:
                shard = self._runtime.activations.shard_for_start()
            new = ids.public_id(id.rpartition("_")[0], store.shards, shard)
            request = self._fork_key(made, raw, key, f"fork {id} {at} {version}", new)
            if request is not None:
                found = (await store.read((request.ref,)))[0]
                if found is not None:
                    return Handle(cast("Outlive", self), started_by(found.value, request))
            share = share_of(id, events, at)
            plan = _plan(new, version, raw, id, head, share, at, who, why, request)
            plan = replace(plan, tags=tags)
            try:
                if head.status in FINAL:
                    await store.commit(await self._fork_of_ended(cell, head, plan))
                else:
                    await self._fork_and_cancel(id, head, events, plan, cancel, who, why)
                return Handle(cast("Outlive", self), new)
            except Conflict:
                continue  # the same key meanwhile, or another fork: look again
        raise NotForkable(f"{id} was changed {TRIES_MAX} times meanwhile. Nothing was forked.")

    async def _cell(self, id: str) -> tuple[Cell, Head]:
        cell = (await self.store.read((ref_of(id, self.store.shards),)))[0]
        if cell is None:
            raise NoSuchProcess(f"There is no process {id[:64]}.")
        head = read_head(cell.value)
        if head.status == GONE:
            raise ProcessGone(f"Process {id} ended and is past its retention.")
        return cell, head

    def _fork_key(
        self, made: Definition | None, raw: bytes, key: str | None, scope: str, new: str
    ) -> Put | None:
        if key is None:
            return None
        if made is None:
            raise NotForkable("A fork with a key needs its process and version declared here.")
        due = self._wall() + round(self._request_seconds * MICROS)
        return request_of(made, raw, key, scope, new, due)

    async def _fork_of_ended(self, cell: Cell, head: Head, plan: Plan) -> Batch:
        """The one commit that queues the new process and names it in the old one's cell."""
        if len(head.forks) >= FORKS_MAX:
            raise NotForkable(f"{cell.key} was forked {FORKS_MAX} times. Nothing was forked.")
        puts = plan.puts(head.type, await self.store.now(), self.store.shards)
        named = put_head(cell.ref, replace(head, forks=(*head.forks, plan.id)), cell.due)
        absent = tuple(Require(put.ref, ABSENT) for put in puts)
        fork, now = plan.fork, await self.store.now()
        line = Noted(now, fork.who, "fork", cell.key, fork.step, fork.why) if fork.who else None
        note = await self._noting(line)
        return Batch(require=(Require(cell.ref, cell.version), *absent), put=(named, *puts, *note))

    async def _fork_and_cancel(
        self,
        id: str,
        head: Head,
        events: Sequence[Event],
        plan: Plan,
        cancel: bool,
        who: str,
        why: str,
    ) -> None:
        """Let the owner do both in one commit, and wait until it has."""
        journal = Journal()
        for event in events:
            journal.apply(unpack(event.kind, event.data), event.time)
        control.demand_forkable(id, head.status, journal, cancel=cancel)
        who, why = who[:WHO_CHARACTERS_MAX], why[:WHY_CHARACTERS_MAX]
        payload = Raw(codec.encode(plan))
        await self._tell(Command("fork", id, plan.id, payload, who=who, reason=why))
        ref, seen = ref_of(plan.id, self.store.shards), -1
        ends = self._clock.boot() + OWNER_SECONDS
        while (await self.store.read((ref,)))[0] is None:
            left = ends - self._clock.boot()
            if left <= 0:
                raise NotForkable(
                    f"The owner of {id} has not forked it within {OWNER_SECONDS:g} s: it has gone "
                    f"on meanwhile, or will be forked as {plan.id} when its node is back."
                )
            seen = await self.store.changed(seen, min(left, 0.5))


def _input_of(made: Definition | None, events: Sequence[Event], head: Head, input: Any) -> bytes:
    """The input of a fork, as it is kept. Raises `InvalidInput`."""
    if input is GIVEN:
        started = next((event for event in events if event.kind == "started"), None)
        if started is None:
            return bytes(head.input)
        found: Started = unpack("started", started.data)
        return bytes(found.input)
    raw = codec.encode(input)
    if made is None:
        return raw
    try:
        return codec.encode(made.input_type.read(raw))
    except ValueError as error:
        raise input_error(raw, error) from None


def _tags_of(
    made: Definition | None, events: Sequence[Event], head: Head, edited: bytes | None
) -> Tags:
    """What a fork is found by: the tags of the old one's start; with another input those that are
    derived from it instead. What the body sets, it sets again. Raises `TagInvalid`."""
    first = events[0] if events and events[0].kind == "started" else None
    tags: Tags = head.tags if first is None else unpack("started", first.data).tags
    if made is None or edited is None:
        return tags
    given = [(name, value) for name, value in tags if made.tags.get(name) is None]
    return tuple(sorted((*given, *made.tags_of(made.input_type.read(edited)))))


def _plan(
    new: str,
    version: int,
    raw: bytes,
    id: str,
    head: Head,
    share: Share,
    at: str,
    who: str,
    why: str,
    request: Put | None,
) -> Plan:
    who, why = who[:WHO_CHARACTERS_MAX], why[:WHY_CHARACTERS_MAX]
    fork = Fork(id, head.stream, share.upto, at, head.status != "done", who, why)
    plan = Plan(new, version, Raw(raw), fork, share.undoable)
    if request is None:
        return plan
    return replace(plan, key=request.ref.key, request=request.value.decode(), due=request.due or 0)
