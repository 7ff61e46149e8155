"""`app.sessions(…)`: the sessions of a service, the same on every instance of it.

    sessions = app.sessions(idle_seconds=1800, absolute_seconds=43_200)
    service = app.asgi(sessions.asgi(api))                    # request.session

    await sessions.devices("ada")          where ada is signed in
    await sessions.revoke_all("ada")       and then nowhere

Every write requires that the session is there: a save never brings one back that was signed out
meanwhile, whichever instance did it. A socket asks `until_ended` and hears of its session's end at
once if it is ended on this instance, else at the next look (`look_seconds`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from msgspec import Struct

from outlive import ids
from outlive.doors.grounds import Ground, declare
from outlive.errors import (
    Conflict,
    OutliveError,
    SessionChanged,
    SessionExpired,
    SessionTooLarge,
)
from outlive.kinds.sessions.cookies import Cookie
from outlive.kinds.sessions.decisions import (
    ABSOLUTE_SECONDS,
    DATA_BYTES_MAX,
    DEVICES_MAX,
    ID_BITS,
    IDLE_SECONDS,
    TEXT_CHARACTERS_MAX,
    TOUCH_SECONDS,
    Command,
    End,
    EndAll,
    Epoch,
    Load,
    Look,
    Make,
    Record,
    Reply,
    Rotate,
    Save,
    SessionKind,
    Touch,
    hint_of,
    is_id,
    key_of,
)
from outlive.kinds.sessions.visit import Change, Held, Outcome, Session
from outlive.model import Storage
from outlive.runtime.inherited import forgets_in_child

LOOK_SECONDS = 5.0
TRIES_MAX = 8
"""How often a command is asked anew because another one changed what it names."""
EPOCH_BITS = 80


class Device(Struct, frozen=True):
    """One open session of a subject. `key` names it to `revoke`; it signs nobody in."""

    key: str
    hint: str
    made: int
    seen: int
    due: int
    agent: str
    place: str


class Settled(Struct, frozen=True):
    """What became of a request's session, and the id that the client gets, if it gets one."""

    outcome: Outcome
    id: str = ""


class Sessions:
    """Sessions in a store of cells.

    `place`: an `Outlive` (its own store), or an open store of cells. `idle_seconds` slides,
    `absolute_seconds` does not; `touch_seconds` (0 to half the idle time): how often "last seen" is
    written at most. `devices_max` (1 to 63): open sessions of one subject, beyond which the oldest
    is signed out. `storage`: what an acknowledged logout is worth; a store that keeps less is
    refused, so Redis needs `volatile`. `principal`: the attribute that says who is signed in, where
    `sign_in` is not used. `conflicts`: of two overlapping requests that set the same attribute the
    `last` wins, or the later is `refused` (409). `unavailable`: with the store out of reach a read
    is refused (503) or the visitor `anonymous`; a write is always an error. `listed`: whether
    a list of devices is kept; not where the store writes one cell in one commit (Memcached).
    `cells`: the address of a store of cells beside the application's own.

    When the process dies before a commit the session is as it was; after it, as it was to be. A
    rotation whose answer was lost leaves no live id: sign in again.
    """

    def __init__(
        self,
        place: Any,
        *,
        idle_seconds: float = IDLE_SECONDS,
        absolute_seconds: float = ABSOLUTE_SECONDS,
        touch_seconds: float = TOUCH_SECONDS,
        devices_max: int = DEVICES_MAX,
        storage: Storage = "durable",
        cookie: Cookie | None = None,
        principal: str = "",
        conflicts: Literal["last", "refused"] = "last",
        unavailable: Literal["refused", "anonymous"] = "refused",
        look_seconds: float = LOOK_SECONDS,
        listed: bool | None = None,
        cells: str = "",
    ) -> None:
        self.kind = SessionKind(
            idle_seconds, absolute_seconds, touch_seconds, devices_max, storage, listed is not False
        )
        self.counts: Counter[str] = Counter()
        """How often what became of a request's session: each `Outcome`."""
        self.cookie = cookie or Cookie()
        self.principal = principal
        self.unavailable = unavailable
        self.look_seconds = look_seconds
        self._conflicts = conflicts
        self._ground = Ground(place, self.kind, cells)
        declare(place, "sessions", self)
        self._chooses = listed is None
        self.forget()
        forgets_in_child(self)

    def forget(self) -> None:
        """In a forked child: who waits for an end waits in the parent."""
        self._watched: dict[str, set[asyncio.Event]] = {}
        self._watching: asyncio.Task[None] | None = None

    def asgi(self, existing_app: Any) -> Any:
        """`existing_app` with `request.session`; see `outlive.web.sessions`."""
        from outlive.web.sessions import SessionMiddleware

        return SessionMiddleware(existing_app, self)

    # --- one request ------------------------------------------------------------------------------

    def visit(self, held: Held | None, *, read_only: bool = False) -> Session:
        """The session of a request that came with `held`."""
        return Session(held, draw, principal=self.principal, read_only=read_only)

    async def load(self, id: str) -> Held | None:
        """The session that the client's text `id` leads to; None when there is none (any more).

        Writes nothing. A text that cannot be an id reaches no store. Raises what the store raises.
        """
        if not is_id(id):
            return None
        await self._choose()
        key = key_of(id)
        reply = await self.ask(Load(key))
        record = reply.found
        if record is None or not await self._is_of_epoch(record):
            return None
        return Held(id, key, record, self.kind.ends(record), reply.now)

    async def settle(self, held: Held | None, change: Change, agent: str = "") -> Settled:
        """Write what a request wants to have written, in one commit.

        Raises `SessionExpired` when the session was ended meanwhile, `SessionChanged`,
        `SessionTooLarge` (nothing was written), or what the store raises.
        """
        _demand_small(held, change)
        await self._choose()
        empty = not change.set and not change.subject and not change.wanted
        if held is None:
            if empty:
                return Settled("unchanged")
            await self._make(key_of(change.fresh), change, agent)
            return Settled("new", change.fresh)
        if change.end and empty:
            await self.end(held.key, change.was)
            return Settled("cleared")
        if change.rotate or change.end or change.subject != change.was:
            await self._rotate(held, change, agent)
            return Settled("rotated", change.fresh)
        if change.set or change.drop:
            seen = change.seen if self._conflicts == "refused" else None
            reply = await self.ask(Save(held.key, change.set, change.drop, seen))
            if reply.found is None:
                raise SessionExpired
            if reply.refused:
                raise SessionChanged(
                    f"Another request has changed {reply.refused!r}; nothing was written."
                )
            return Settled("changed")
        return Settled("unchanged")

    async def touch(self, held: Held) -> str:
        """Note that the session was seen, if that was not noted lately; an empty text: the client
        keeps what it has."""
        if held.now - held.record.seen >= self.kind.touch:
            await self.ask(Touch(held.key))
        return ""

    # --- from outside a request -------------------------------------------------------------------

    async def devices(self, subject: str) -> list[Device]:
        """Where `subject` is signed in, the last seen first. Empty where no list is kept."""
        keys = (await self.ask(Look(subject))).keys
        replies = await asyncio.gather(*(self.ask(Load(key)) for key in keys))
        found = [
            Device(key, hint_of(key), it.made, it.seen, self.kind.ends(it), it.agent, it.place)
            for key, it in zip(keys, (reply.found for reply in replies), strict=True)
            if it is not None
        ]
        return sorted(found, key=lambda device: -device.seen)

    async def revoke(self, key: str) -> bool:
        """Sign out the session with this key (of `devices`); False when it was not there.

        Durable when it returns: whatever is under way with it is answered as signed out.
        """
        await self._choose()
        record = (await self.ask(Load(key))).found
        if record is None:
            return False
        await self.end(key, record.subject)
        return True

    async def revoke_all(self, subject: str, *, but: str = "") -> int:
        """Sign `subject` out everywhere, but for the session with the key `but`; gives how many
        sessions that were.

        All of them in one commit, or none. Where no list is kept it is the epoch that changes, and
        `but` is not possible (`ValueError`).
        """
        await self._choose()
        if not self.kind.listed:
            if but:
                raise ValueError("without a list of devices all of a subject's sessions end")
            await self.ask(Epoch(subject, ids.token(EPOCH_BITS), renewed=True))
            return 0
        reply = await self.ask(Look(subject))
        for _ in range(TRIES_MAX):
            if not reply.keys:
                return 0
            reply = await self.ask(EndAll(subject, reply.keys, but))
            if not reply.again:
                for key in reply.keys:
                    self._tell(key)
                return len(reply.keys)
        raise Conflict(f"{subject[:64]} signs in too often; nothing was signed out.")

    async def sweep(self) -> int:
        """Free the space of sessions that have ended; done from time to time by itself."""
        return await self._ground.sweep()

    # --- the end of a session, for who waits for it -----------------------------------------------

    async def until_ended(self, held: Held) -> None:
        """Return when the session has ended: at once if it was ended here, else at the next look.

        Asks the store once in `look_seconds` for all who wait. While the store is out of reach
        nobody is told anything.
        """
        event = asyncio.Event()
        waiting = self._watched.setdefault(held.key, set())
        waiting.add(event)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            await event.wait()
        finally:
            waiting.discard(event)
            if not waiting and self._watched.get(held.key) is waiting:
                del self._watched[held.key]
            if not self._watched and self._watching is not None:
                self._watching.cancel()
                self._watching = None  # who comes before it has ended needs another

    async def _watch(self) -> None:
        while self._watched:
            tick = asyncio.Event()
            later = self._ground.clock.call_later(self.look_seconds, tick.set)
            try:
                await tick.wait()
            finally:
                later.cancel()
            keys = list(self._watched)
            try:
                replies = await asyncio.gather(*(self.ask(Load(key)) for key in keys))
                for key, reply in zip(keys, replies, strict=True):
                    if reply.found is None or not await self._is_of_epoch(reply.found):
                        self._tell(key)
            except OutliveError:
                continue

    def _tell(self, key: str) -> None:
        for event in self._watched.get(key, ()):
            event.set()

    async def _choose(self) -> None:
        """Find out what the store can do, once."""
        if self._chooses:
            self.kind.listed = "batches" not in (await self._ground.store()).lacks
            self._chooses = False

    # --- commands ---------------------------------------------------------------------------------

    async def ask(self, command: Command) -> Reply:
        """Carry out `command`. Raises what the store raises."""
        return await self._ground.apply(command)

    async def _make(self, key: str, change: Change, agent: str) -> None:
        epoch = await self._epoch(change.subject)

        async def made(evict: str) -> Reply:
            return await self.ask(
                Make(key, change.subject, change.set, agent, change.place, epoch, evict)
            )

        await self.with_room(made)

    async def _rotate(self, held: Held, change: Change, agent: str) -> None:
        fresh, was, subject = key_of(change.fresh), change.was, change.subject
        if not self.kind.listed:
            await self._rotate_alone(held, change, fresh, agent)
            return
        clear = change.end

        async def rotated(evict: str) -> Reply:
            return await self.ask(
                Rotate(
                    held.key, fresh, was, subject, change.set, change.drop, clear, agent,
                    change.place, evict,
                )
            )  # fmt: skip

        reply = await self.with_room(rotated)
        if reply.found is None:
            raise SessionExpired
        self._tell(held.key)

    async def _rotate_alone(self, held: Held, change: Change, fresh: str, agent: str) -> None:
        """The same in two commits, the old id first: a death in between leaves none."""
        found = (await self.ask(End(held.key, change.was))).found
        self._tell(held.key)
        if found is None or not await self._is_of_epoch(found):
            raise SessionExpired
        kept = {} if change.end else found.data
        data = {name: raw for name, raw in kept.items() if name not in change.drop} | change.set
        same = change.subject == change.was and not change.end
        # Under the old epoch it is as dead as the old one, if all of them end right now.
        epoch = found.epoch if same else await self._epoch(change.subject)
        await self.ask(
            Make(
                fresh, change.subject, data, agent, change.place or found.place, epoch,
                like=found if same else None,
            )
        )  # fmt: skip

    async def with_room(self, ask: Callable[[str], Awaitable[Reply]]) -> Reply:
        """Ask, and again with the session that has to go, while a subject has too many."""
        evict = ""
        for _ in range(TRIES_MAX):
            reply = await ask(evict)
            if not reply.evict:
                if evict:
                    self._tell(evict)
                return reply
            evict = await self._dispensable(reply)
        raise Conflict("The subject signs in too often; nothing was written.")

    async def _dispensable(self, reply: Reply) -> str:
        """Which of a subject's sessions goes: one whose idle time is over, else the oldest."""
        found = await asyncio.gather(*(self.ask(Load(key)) for key in reply.keys))
        over = (key for key, it in zip(reply.keys, found, strict=True) if it.found is None)
        return next(over, reply.evict)

    async def end(self, key: str, subject: str) -> None:
        """Sign the session `key` out, whoever's it is; `subject` is whose it was when read."""
        for _ in range(TRIES_MAX):
            reply = await self.ask(End(key, subject))
            if not reply.again or reply.found is None:
                break
            subject = reply.found.subject
        self._tell(key)

    async def _epoch(self, subject: str) -> str:
        if self.kind.listed or not subject:
            return ""
        return (await self.ask(Epoch(subject, ids.token(EPOCH_BITS)))).epoch

    async def _is_of_epoch(self, record: Record) -> bool:
        """Whether no end of all came since it was made; without a list only."""
        if self.kind.listed or not record.subject:
            return True
        return (await self.ask(Look(record.subject))).epoch == record.epoch != ""


def agent_of(text: str) -> str:
    """What of a client's own name for itself is kept."""
    return text[:TEXT_CHARACTERS_MAX]


def draw() -> str:
    """A new id."""
    return ids.token(ID_BITS)


def _demand_small(held: Held | None, change: Change) -> None:
    """Raise `SessionTooLarge` when the attributes would be larger than a session may be."""
    if not change.set:
        return
    data = {} if held is None or change.end else held.record.data
    kept = {name: raw for name, raw in data.items() if name not in change.drop} | change.set
    size = sum(len(name.encode()) + len(bytes(raw)) for name, raw in kept.items())
    if size > DATA_BYTES_MAX:
        raise SessionTooLarge(
            f"The session would have {size} bytes; at most {DATA_BYTES_MAX} are kept.", bytes=size
        )
