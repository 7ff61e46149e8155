"""Sessions that lie with the client: sealed in the cookie, and in no store.

    SealedSessions(keys)               nothing is kept anywhere. A logout only takes the cookie
                                       away: who has a copy of it is signed in until it ends
    SealedSessions(keys, place=app)    the dead are kept in the store: a logout, a rotation and
                                       `revoke_all` count, for one read of the store a request

The text is sealed with AES-256-GCM by the newest key of the ring, and its name; older keys still
open. It is bound to the cookie's name. It tells nothing but its length.

Not promised, for want of a cell to decide on: of two overlapping responses that change the session
the one that the browser sees last wins whole; and an older text of a living session stays good
until its idle time ends.

Without a place the host's clock stands for the store's. It may be `skew_seconds` wrong, so a
session ends that much earlier than it says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.doors.grounds import Ground, declare
from outlive.doors.sessions import EPOCH_BITS, Settled, draw
from outlive.errors import KeysMissing, OutliveError, SessionExpired, StoreRefused
from outlive.kinds.sessions.cookies import COOKIE_BYTES_MAX, Cookie
from outlive.kinds.sessions.decisions import (
    ABSOLUTE_SECONDS,
    IDLE_SECONDS,
    TOUCH_SECONDS,
    Epoch,
    Record,
    SessionKind,
    is_id,
    key_of,
    read_record,
    write_record,
)
from outlive.kinds.sessions.denials import Check, DenialKind, Deny
from outlive.kinds.sessions.visit import Change, Held, Session
from outlive.model import Storage
from outlive.stores.keys import Keys, is_sealed

SKEW_SECONDS = 60.0
LOOK_SECONDS = 5.0


class _Sealed(Struct):
    id: str
    record: Raw


_read = msgspec.json.Decoder(_Sealed).decode


class SealedSessions:
    """Sessions sealed in the cookie; takes the place of `Sessions` in the middleware.

    `keys`: the ring; give a new key to every instance behind the old one before it is put first.
    `place`: an `Outlive` or an open store of cells that keeps the dead, else a logout cannot count
    for a copy of the cookie. `skew_seconds`: how wrong the host's clock may be, without a place.
    The others as for `Sessions`. Raises `ValueError` for keys that do not seal.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        place: Any = None,
        idle_seconds: float = IDLE_SECONDS,
        absolute_seconds: float = ABSOLUTE_SECONDS,
        touch_seconds: float = TOUCH_SECONDS,
        skew_seconds: float = SKEW_SECONDS,
        storage: Storage = "durable",
        cookie: Cookie | None = None,
        principal: str = "",
        unavailable: Literal["refused", "anonymous"] = "refused",
        look_seconds: float = LOOK_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        if not keys.sealing:
            raise ValueError("none of the keys seals: leave seals=False out")
        self.kind = SessionKind(idle_seconds, absolute_seconds, touch_seconds)
        self.counts: Counter[str] = Counter()
        self.cookie = cookie or Cookie()
        self.principal = principal
        self.unavailable = unavailable
        self.look_seconds = look_seconds
        self._keys = keys
        self._skew = round(skew_seconds * MICROS)
        self._denials = DenialKind(storage)
        self._ground = None if place is None else Ground(place, self._denials)
        declare(place, "sessions", self)
        self._clock = clock or (Clock() if self._ground is None else self._ground.clock)
        self._bound = b"session\0" + self.cookie.name.encode()

    @property
    def callable_back(self) -> bool:
        """Whether a session can be ended before its time: there is a place that keeps the dead."""
        return self._ground is not None

    def asgi(self, existing_app: Any) -> Any:
        """`existing_app` with `request.session`; see `outlive.web.sessions`."""
        from outlive.web.sessions import SessionMiddleware

        return SessionMiddleware(existing_app, self)

    def visit(self, held: Held | None, *, read_only: bool = False) -> Session:
        """The session of a request that came with `held`."""
        return Session(held, draw, principal=self.principal, read_only=read_only)

    async def load(self, text: str) -> Held | None:
        """The session that is sealed in `text`; None when it is not one of ours, or has ended.

        Raises what the store raises, where the dead are kept."""
        data = text.encode("latin-1")
        if len(data) > COOKIE_BYTES_MAX or not is_sealed(data):
            return None
        try:
            found = _read(self._keys.open(self._bound, data))
            record = read_record(bytes(found.record))
        except (KeysMissing, StoreRefused, msgspec.MsgspecError):
            return None
        if not is_id(found.id):
            return None
        key = key_of(found.id)
        if self._ground is None:
            now = self._clock.wall() + self._skew
        else:
            check = Check(key, record.subject, record.epoch)
            said = await self._ground.apply(check)
            if not said.alive:
                return None
            now = said.now
        due = self.kind.ends(record)
        return Held(found.id, key, record, due, now) if now < due else None

    async def settle(self, held: Held | None, change: Change, agent: str = "") -> Settled:
        """Seal what a request wants to have written. Raises `SessionTooLarge` (nothing was sealed,
        and no session ended), `SessionExpired` when another id was to be given to a session that
        was signed out meanwhile, or what the store raises."""
        empty = not change.set and not change.subject and not change.wanted
        if held is None and empty:
            return Settled("unchanged")
        if held is not None and change.end and empty:
            await self._deny(held)
            return Settled("cleared")
        now = await self._now()
        moves = held is None or change.rotate or change.end or change.subject != change.was
        if held is None or change.subject != change.was or change.end:
            record = Record(now, now, now + self.kind.absolute, change.subject)
            record = replace(record, epoch=await self._epoch(change.subject))
        else:
            record = replace(held.record, seen=max(now, held.record.seen))
        kept = {} if held is None or change.end else held.record.data
        data = {name: raw for name, raw in kept.items() if name not in change.drop} | change.set
        id = change.fresh if held is None or moves else held.id
        text = self._seal(id, replace(record, data=data))
        if held is not None and moves and not await self._deny(held):
            raise SessionExpired
        return Settled("new" if held is None else "rotated" if moves else "changed", text)

    async def touch(self, held: Held) -> str:
        """The same session with a new idle time, when that is due; else an empty text."""
        if held.now - held.record.seen < self.kind.touch:
            return ""
        now = held.now if self._ground is not None else held.now - self._skew
        return self._seal(held.id, replace(held.record, seen=max(now, held.record.seen)))

    async def revoke_all(self, subject: str) -> None:
        """Sign `subject` out everywhere. Raises `ValueError` without a place: nothing that was
        sealed can be called back then."""
        if self._ground is None:
            raise ValueError("sealed sessions without a place cannot be ended before their time")
        epoch = Epoch(subject, ids.token(EPOCH_BITS), renewed=True)
        await self._ground.apply(epoch)

    async def until_ended(self, held: Held) -> None:
        """Return when the session has ended, at the next look (`look_seconds`). While the store is
        out of reach nobody is told anything."""
        while True:
            tick = asyncio.Event()
            later = self._clock.call_later(self.look_seconds, tick.set)
            try:
                await tick.wait()
            finally:
                later.cancel()
            with suppress(OutliveError):
                if await self.load(self._seal(held.id, held.record)) is None:
                    return

    def _seal(self, id: str, record: Record) -> str:
        raw = msgspec.json.encode(_Sealed(id, Raw(write_record(record))))
        text = self._keys.seal(self._bound, raw).decode("ascii")
        self.cookie.set(text)  # counted as it is sent, before anything else is done
        return text

    async def _deny(self, held: Held) -> bool:
        """End it for who has a copy; whether it was alive until now, as far as anybody knows."""
        if self._ground is None:
            return True
        end = min(held.record.end, held.record.made + self.kind.absolute)
        return (await self._ground.apply(Deny(held.key, end))).alive

    async def _now(self) -> int:
        return (
            self._clock.wall() if self._ground is None else await (await self._ground.store()).now()
        )

    async def _epoch(self, subject: str) -> str:
        if self._ground is None or not subject:
            return ""
        asked = Epoch(subject, ids.token(EPOCH_BITS))
        return (await self._ground.apply(asked)).epoch
