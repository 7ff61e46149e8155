"""Callbacks as whoever calls sees them: one token, one body, on any node.

taken      recorded, and the body has it (or will)
kept       durable in a cell for the owner of the process, which has not answered yet
replayed   it had been told just that before
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Raw

from outlive.doors.updates import Updates
from outlive.errors import (
    CallbackExpired,
    CallbackUsed,
    KeyReused,
    NoSuchCallback,
    NoSuchProcess,
    ProcessGone,
    TooLarge,
)
from outlive.kinds.processes import FINAL, Command, Head
from outlive.kinds.processes.callbacks import is_token, key_of, place_ref, read_place
from outlive.kinds.processes.definition import any_payload
from outlive.kinds.processes.heard import called_in, same
from outlive.model import ERASED, Event

CALLBACK_BYTES_MAX = 64 * 1024
OWNER_SECONDS = 2.0
"""How long a call waits for another node, which owns the process, to have decided."""

Outcome = Literal["taken", "kept", "replayed"]


class Callbacks(Updates):
    """The callbacks an application takes."""

    async def call_back(self, token: str, payload: bytes) -> Outcome:
        """Say `payload` (JSON) to the callback of `token`; durable when this returns.

        Raises `NoSuchCallback`, `CallbackExpired`, `CallbackUsed`, `InvalidInput`,
        `MalformedInput`, `TooLarge`; then nothing was kept.
        """
        if len(payload) > CALLBACK_BYTES_MAX:
            raise TooLarge(
                f"The body has {len(payload)} bytes; at most {CALLBACK_BYTES_MAX} are taken."
            )
        cell = (await self.store.read((place_ref(token),)))[0] if is_token(token) else None
        if cell is None:
            raise NoSuchCallback
        place = read_place(cell.value)
        try:
            head = await self._head(place.id)
        except (NoSuchProcess, ProcessGone):
            raise CallbackExpired from None
        stream = place.stream or head.stream
        events = await self.store.events(stream)
        made, told = called_in(events, place.of)
        if made is None and (stream != head.stream or _is_erased(events)):
            raise CallbackExpired
        if made is None:
            raise NoSuchCallback
        raw = self._callback_payload(head, made.name, payload)
        if told is not None:
            return _again(told, raw)
        late = made.until is not None and made.until <= self._wall()
        if late or head.status in FINAL or stream != head.stream:
            raise CallbackExpired
        key = key_of(place.of, place.stream)
        command = Command("callback", place.id, place.of, raw, key)
        try:
            if await self._tell_once(command, "callback "):
                return "taken"
        except KeyReused:
            raise CallbackUsed from None
        except ProcessGone:
            raise CallbackExpired from None
        return await self._decided(place.id, place.of, head, raw)

    async def _decided(self, id: str, of: str, head: Head, raw: Raw) -> Outcome:
        """What came of a call that its owner was left."""
        ends, seen = self._clock.boot() + OWNER_SECONDS, -1
        while (left := ends - self._clock.boot()) > 0:
            events = await self.store.events(head.stream)
            _, told = called_in(events, of)
            if told is not None:
                _again(told, raw)
                return "taken"
            if _is_erased(events) or events[-1].kind == "ended":
                raise CallbackExpired
            seen = await self.changed(id, max(seen, len(events)), min(left, 0.5))
        return "kept"

    def _callback_payload(self, head: Head, name: str, payload: bytes) -> Raw:
        made = self._all.get((head.type, head.version))
        return any_payload(payload) if made is None else made.callback_payload(name, payload)


def _is_erased(events: Sequence[Event]) -> bool:
    """Whether nothing is left of them: the retention was over since their cell was read."""
    return not events or events[0].kind == ERASED


def _again(told: Raw, raw: Raw) -> Outcome:
    if not same(told, raw):
        raise CallbackUsed
    return "replayed"
