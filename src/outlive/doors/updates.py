"""Updates: what is asked of a process and answered by it, on any node.

    ask       accepted when this returns: durable, on the owner's node or in a cell for it
    standing  accepted · answered · refused · unanswered, read from what is durable
    update    both: ask, and wait for the answer

A key names an update of a process for ever. Whoever has the key gets the answer: after a crash, on
another node, years later while the process is kept; of an endless process, in its last few eras.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from msgspec import Raw

from outlive import codec, ids
from outlive.doors.journals import recorded
from outlive.doors.telling import Telling
from outlive.errors import (
    Conflict,
    Fenced,
    KeyReused,
    NoSuchProcess,
    NoSuchUpdate,
    ProcessTerminal,
    StreamConflict,
    TooLarge,
    TooManySignals,
    UpdateRefused,
    UpdateUnanswered,
)
from outlive.kinds.processes import FINAL, Command, Head
from outlive.kinds.processes.cells import inbox_of, read_command
from outlive.kinds.processes.definition import any_payload
from outlive.kinds.processes.eras import stream_of
from outlive.kinds.processes.heard import DIGESTED, UpdateView, place_of, same, update_in
from outlive.kinds.processes.pending import told
from outlive.model import ABSENT, Batch, Event, Put, Ref, Require, shard_of

if TYPE_CHECKING:
    from outlive.app import Outlive

UPDATE_BYTES_MAX = 64 * 1024
UPDATE_KEY_CHARACTERS_MAX = 255
LOOK_SECONDS = 30.0
"""A wait for an answer looks at the store at least this often."""
PUT_TRIES = 5
ERAS_ASKED_MAX = 3
"""Eras in which an update is looked for: the one under way, and those before it."""


class Updates(Telling):
    """The updates an application takes."""

    async def ask(self, id: str, name: str, payload: bytes, *, key: str | None = None) -> str:
        """Send an update with a JSON payload (empty: null); durable when this returns its key.

        `key`: 1 to 255 characters; without it one is drawn. Asked again with the same key and
        payload, it is the same update. Raises `NoSuchProcess`, `ProcessTerminal`,
        `UpdateNotExpected`, `InvalidInput`, `MalformedInput`, `TooLarge`, `TooManySignals`,
        `KeyReused`; then nothing was kept.
        """
        head = await self._head(id)
        raw = self._update_payload(head, name, payload or b"null")
        if key is None:
            key = ids.token(130)
        elif not 1 <= len(key) <= UPDATE_KEY_CHARACTERS_MAX:
            raise ValueError(f"a key has 1 to {UPDATE_KEY_CHARACTERS_MAX} characters")
        else:
            _, known = await self._heard(head, name, place_of(key))
            if known is not None and not same(known.payload, raw):
                raise KeyReused("This key was used for another update; nothing was kept.")
            if known is not None:
                return key
        if head.status in FINAL:
            raise ProcessTerminal(f"{id} has ended: {head.status}. The update was not kept.")
        await self._tell_once(Command("update", id, name, raw, key), _mark(name))
        return key

    async def standing(self, id: str, name: str, key: str) -> UpdateView:
        """How it stands with an update. Raises `NoSuchUpdate`, `NoSuchProcess`, `ProcessGone`."""
        return await self.standing_at(id, name, place_of(key))

    async def standing_at(self, id: str, name: str, place: str) -> UpdateView:
        """The same for the last part of its address."""
        _, found = await self._standing(id, name, place)
        return found

    async def stands(self, id: str, name: str, key: str, within: float | None) -> UpdateView:
        """How it stands with an update once it is decided, or `within` seconds have passed. Raises
        as `standing`."""
        ends = None if within is None else self._clock.boot() + within
        while True:
            seen, found = await self._standing(id, name, place_of(key))
            left = LOOK_SECONDS if ends is None else ends - self._clock.boot()
            if found.status != "accepted" or left <= 0:
                return found
            await self.changed(id, seen, min(left, LOOK_SECONDS))
            if cast("Outlive", self).phase == "draining":
                return found

    async def update(
        self,
        id: str,
        name: str,
        payload: bytes,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> Raw:
        """Ask, and wait for the answer, which is given as JSON; see `Handle.update`."""
        key = await self.ask(id, name, payload, key=key)
        try:
            found = await self.stands(id, name, key, within)
        except NoSuchUpdate:  # its owner has let it go
            head = await self._head(id)
            if head.status in FINAL:
                raise ProcessTerminal(
                    f"{id} has ended: {head.status}. The update was not taken."
                ) from None
            raise TooManySignals(f"{id} did not take the update; it was not kept.") from None
        return answer_of(found, id, within)

    async def _standing(self, id: str, name: str, place: str) -> tuple[int, UpdateView]:
        """The number of events looked at, and how it stands according to them."""
        head = await self._head(id)
        digest = place[1:] if place[:1] == DIGESTED else codec.digest(place.encode())
        space = inbox_of(shard_of(id, self.store.shards))
        cell = (await self.store.read((Ref(space, f"{id}/{_mark(name)}{digest}"),)))[0]
        events, found = await self._heard(head, name, place)
        if found is None and cell is not None:
            command = read_command(cell.value)
            found = UpdateView(name, command.key, "accepted", 0, payload=command.payload)
        if found is None:
            raise NoSuchUpdate(f"{id} has no update {name[:64]} of that key.")
        if found.status == "accepted" and events and events[-1].kind == "ended":
            found = UpdateView(name, found.key, "unanswered", found.asked, payload=found.payload)
        return head.before + len(events), found

    async def _heard(
        self, head: Head, name: str, place: str
    ) -> tuple[Sequence[Event], UpdateView | None]:
        """The events of the era under way, and the update in them or in the last eras before."""
        events = await recorded(self.store, head)
        found = update_in(events, name, place)
        for era in range(head.era - 1, max(0, head.era - ERAS_ASKED_MAX), -1):
            if found is None:
                found = update_in(await self.store.events(stream_of(head, era)), name, place)
        return events, found

    def _update_payload(self, head: Head, name: str, payload: bytes) -> Raw:
        if len(payload) > UPDATE_BYTES_MAX:
            raise TooLarge(
                f"The payload has {len(payload)} bytes; at most {UPDATE_BYTES_MAX} are taken."
            )
        made = self._all.get((head.type, head.version))
        return any_payload(payload) if made is None else made.update_payload(name, payload)

    async def _tell_once(self, command: Command, mark: str) -> bool:
        """Do it here when the process is ours, else keep it in a cell of its own for its owner;
        gives whether it is done.

        Raises `KeyReused` when a command of that mark and key waits which says something else.
        """
        shard = shard_of(command.id, self.store.shards)
        if self._runtime is not None and shard in self._runtime.activations.leases:
            try:
                await self._runtime.activations.commands.obey(command)
                return True
            except (Fenced, NoSuchProcess, StreamConflict):
                pass  # the shard or the view was lost this moment: its owner does it from a new one
        put: Put = told(command, await self.store.now(), self.store.shards, mark)
        for _ in range(PUT_TRIES):
            try:
                await self.store.commit(Batch(require=(Require(put.ref, ABSENT),), put=(put,)))
                return False
            except Conflict:
                cell = (await self.store.read((put.ref,)))[0]
            if cell is not None:
                if not same(read_command(cell.value).payload, command.payload):
                    raise KeyReused("Something else waits under this key; nothing was kept.")
                return False
        raise Conflict(f"{command.id} is asked for the same again and again; nothing was kept.")


def answer_of(found: UpdateView, id: str, within: float | None) -> Raw:
    """The answer, or why there is none."""
    match found.status:
        case "answered":
            return found.answer or codec.NULL
        case "refused":
            failure = found.failure
            why = "" if failure is None else failure.message
            facts: dict[str, Any] = {"reason": "" if failure is None else failure.type}
            raise UpdateRefused(why, **facts)
        case "unanswered":
            raise UpdateUnanswered(f"{id} has ended without answering {found.name}.")
    raise TimeoutError(f"{id} has not answered {found.name} after {within} s; it is kept")


def _mark(name: str) -> str:
    return f"update {name} "
