"""What a person asks of the small kinds, by what lies in the store: no declaration is needed.

    sessions       who is signed in; sign one out, or everywhere
    limits         what is used of quotas and who holds slots; forget it
    breakers       how dependencies stand; hold open or closed, release, reset
    caches         which have values and stamps; invalidate one key, one tag, all
    requests       idempotency keys; say what came of an unknown one, forget one

A service may run meanwhile: each change is one commit that its instances see as they see each
other's. Of limits and caches a process remembers a little (docs/ratelimits.md, docs/caches.md);
sockets hear of their session's end at their next look. Only what lies in the application's own
store is seen: not what is kept with `cells=` elsewhere, and not what a memory alone keeps.

When the process dies before a call returns, the change is there or not; asked again it does no
harm.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

from outlive.errors import InvalidInput, NoSuchState
from outlive.kinds.ratelimits.deciding import SPACES as LIMIT_SPACES
from outlive.model import Batch, Cell, Ref

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.requests import Requests
    from outlive.doors.sessions import Sessions
    from outlive.kinds.breakers.standing import Action, Standing

log = logging.getLogger("outlive")

LINES_MAX = 100_000
"""Lines of one list."""
PAGE = 1000
CACHES_MAX = 1000
WORDS_MAX = 400
FOREVER_SECONDS = 100 * 366 * 86_400.0


class SessionLine(Struct, frozen=True):
    """One open session. `key` names it to `session_revoke`; it signs nobody in."""

    key: str
    subject: str
    made: int
    seen: int
    due: int
    agent: str
    place: str


class LimitLine(Struct, frozen=True):
    """What is used of a quota for one key, or who holds slots; all is back at `due`."""

    key: str
    what: str
    used: int
    of: int
    storage: str
    due: int


class BreakerLine(Struct, frozen=True):
    """How a dependency stands, and why it last changed."""

    name: str
    state: str
    until: int
    opened: int
    changed: int
    why: str


class CacheLine(Struct, frozen=True):
    """What the instances of a service share of a cache."""

    name: str
    values: int
    stamps: int


class RequestLine(Struct, frozen=True):
    """One idempotency key: `unknown` waits for somebody to find out what came of it."""

    id: str
    state: str
    method: str
    route: str
    key: str
    principal: str
    tenant: str
    status: int
    started: int
    expires: int


class Desk:
    """The questions about the small kinds, on an open application."""

    def __init__(self, app: Outlive) -> None:
        self._app = app

    # --- sessions ---------------------------------------------------------------------------------

    async def session_lines(self, subject: str = "", limit: int = 50) -> list[SessionLine]:
        """Open sessions, of one `subject` or of all; the last seen first. `limit`: 1 to 100,000.

        Of all, those are looked at that come first by their keys.
        """
        from outlive.kinds.sessions.decisions import SESSIONS, read_record

        now = await self._app.store.now()
        found: list[SessionLine] = []
        for cell in await self._cells(SESSIONS, LINES_MAX if subject else limit):
            it = read_record(cell.value)
            if (cell.due is None or cell.due > now) and subject in ("", it.subject):
                due = it.end if cell.due is None else cell.due
                found.append(
                    SessionLine(cell.key, it.subject, it.made, it.seen, due, it.agent, it.place)
                )
        return sorted(found, key=lambda line: -line.seen)[:limit]

    async def session_revoke(self, key: str, who: str = "", why: str = "") -> None:
        """Sign out the session with this key (of `session_lines`); durable when it returns. Raises
        `NoSuchState`."""
        if not await self._sessions().revoke(key):
            raise NoSuchState(f"There is no open session {key[:80]}.")
        log.info("session %s was revoked by %s (%s)", key[:8], who, why)

    async def session_revoke_all(self, subject: str, who: str = "", why: str = "") -> int:
        """Sign `subject` out everywhere, in one commit; gives of how many sessions."""
        count = await self._sessions().revoke_all(subject)
        log.info("%d sessions of a subject were revoked by %s (%s)", count, who, why)
        return count

    def _sessions(self) -> Sessions:
        """Sessions whose own clocks never end one: what the application says counts."""
        from outlive.doors.sessions import Sessions

        return Sessions(
            self._app.store, idle_seconds=FOREVER_SECONDS, absolute_seconds=FOREVER_SECONDS
        )

    # --- limits -----------------------------------------------------------------------------------

    async def limit_lines(self, limit: int = 50) -> list[LimitLine]:
        """What is used of quotas, and who holds slots. `limit`: 1 to 100,000."""
        now = await self._app.store.now()
        found: list[LimitLine] = []
        for storage, space in LIMIT_SPACES.items():
            for cell in await self._cells(space, limit - len(found)):
                if cell.due is None or cell.due > now:
                    found.append(_limit_line(cell, storage, now))
        return found

    async def limit_reset(self, key: str, who: str = "", why: str = "") -> None:
        """Forget what is used under this key (of `limit_lines`). Raises `NoSuchState`.

        A process may refuse for a second longer, and slots that are held stay with their holders
        until they renew: then these lose them.
        """
        store, dropped = self._app.store, 0
        for space in LIMIT_SPACES.values():
            ref = Ref(space, key)
            if (await store.read((ref,)))[0] is not None:
                await store.commit(Batch(drop=(ref,)))
                dropped += 1
        if not dropped:
            raise NoSuchState(f"Nothing is used under {key[:120]}.")
        log.info("limit %s was reset by %s (%s)", key, who, why)

    # --- breakers ---------------------------------------------------------------------------------

    async def breaker_lines(self, limit: int = 50) -> list[BreakerLine]:
        """How dependencies stand; one of which nothing bad was ever heard has no line. `limit`: 1
        to 100,000."""
        from outlive.kinds.breakers.standing import SPACE, read

        return [
            _breaker_line(cell.key, read(cell.value)) for cell in await self._cells(SPACE, limit)
        ]

    async def breaker(self, name: str) -> Standing:
        """How one dependency stands, its turns, and what operators did. Raises `NoSuchState`."""
        from outlive.kinds.breakers.standing import read, ref_of

        cell = (await self._app.store.read((ref_of(name),)))[0]
        if cell is None:
            raise NoSuchState(f"Nothing is known about a dependency {name[:128]}.")
        return read(cell.value)

    async def breaker_control(
        self, name: str, action: Action, who: str = "", why: str = ""
    ) -> BreakerLine:
        """Hold a dependency open or closed, release it, or reset it, for all instances.

        One that nothing is known about must be held by its declared name: raises `NoSuchState` for
        `release` and `reset` of it.
        """
        from outlive.kinds.breakers.rule import NAME_CHARACTERS_MAX, Breaker
        from outlive.kinds.breakers.standing import BREAKERS, Control, Told
        from outlive.runtime.apply import Applier

        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            raise InvalidInput(f"a dependency's name has 1 to {NAME_CHARACTERS_MAX} characters")
        if action in ("release", "reset"):
            await self.breaker(name)
        applier = Applier(self._app.store, self._app._clock)
        command = Control(name, Breaker(), action, who[:WORDS_MAX], why[:WORDS_MAX])
        try:
            told = cast("Told", await applier.apply(BREAKERS, command))
        finally:
            await applier.close()
        return _breaker_line(name, told.standing)

    # --- caches -----------------------------------------------------------------------------------

    async def cache_lines(self) -> list[CacheLine]:
        """The caches of which values or stamps lie in the store, at most 1,000."""
        from outlive.kinds.caches.shared import STAMP_SPACE, VALUE_SPACE

        counts: dict[str, list[int]] = {}
        for place, space in enumerate((VALUE_SPACE, STAMP_SPACE)):
            for cell in await self._cells(space, LINES_MAX):
                counts.setdefault(cell.key.partition("/")[0], [0, 0])[place] += 1
        return [CacheLine(name, *counts[name]) for name in sorted(counts)[:CACHES_MAX]]

    async def cache_invalidate(
        self,
        name: str,
        tag: str = "",
        key: tuple[str | int, ...] = (),
        unseen: bool = False,
        who: str = "",
        why: str = "",
    ) -> None:
        """Make values of a cache old, on every instance: with `tag`, with the arguments `key`, or
        all; durable when it returns.

        Raises `NoSuchState` for one of which nothing lies in the store, unless `unseen` (its values
        may lie elsewhere).
        """
        from outlive.kinds.caches.rule import LIFE_SECONDS_MAX
        from outlive.kinds.caches.shared import key_digest, stamp_put, stamp_ref

        if tag and key:
            raise InvalidInput("a tag or a key, not both; nothing was invalidated")
        if not name or "/" in name:
            raise InvalidInput(f"{name!r} is no name of a cache")
        if not unseen and not await self._is_seen(name):
            raise NoSuchState(f"Nothing of a cache {name[:64]} lies in this store.")
        what = f"tag:{tag}" if tag else key_digest("", key) if key else "*"
        put = stamp_put(stamp_ref(name, what), LIFE_SECONDS_MAX)
        await self._app.store.commit(Batch(put=(put,)))
        log.info("cache %s: %s was invalidated by %s (%s)", name, tag or key or "all", who, why)

    async def _is_seen(self, name: str) -> bool:
        from outlive.kinds.caches.shared import STAMP_SPACE, VALUE_SPACE

        for space in (VALUE_SPACE, STAMP_SPACE):
            for cell in await self._app.store.scan(space, f"{name}/", 1):
                if cell.key.startswith(f"{name}/"):
                    return True
        return False

    # --- requests ---------------------------------------------------------------------------------

    async def request_lines(self, state: str = "", limit: int = 50) -> list[RequestLine]:
        """Idempotency keys, the newest first; `state`: running, done or unknown. `limit`: 1 to
        100,000."""
        from outlive.kinds.requests.decisions import ONCE, read_record

        found = []
        for cell in await self._cells(ONCE, LINES_MAX):
            it = read_record(cell.value)
            if state in ("", it.state):
                found.append(_request_line(cell, it))
        return sorted(found, key=lambda line: -line.started)[:limit]

    async def request(self, id: str) -> RequestLine:
        """One idempotency key, by the `id` of its line. Raises `NoSuchRequest`."""
        from outlive.kinds.requests.decisions import ref_of

        record = await self._requests().look(id)
        cell = (await self._app.store.read((ref_of(id),)))[0]
        return _request_line(cell or Cell(ref_of(id).space, id, b"", 0, None), record)

    async def request_resolve(
        self, id: str, status: int | None = None, who: str = "", why: str = ""
    ) -> None:
        """Say what came of an unknown request: repetitions are answered with `status` (200 to 599)
        and no body; without a status it did not happen, and the next one is carried out.

        Raises `NoSuchRequest`, `NotResolvable`.
        """
        from outlive.kinds.requests.decisions import Answer

        if status is not None and not 200 <= status <= 599:
            raise InvalidInput(f"{status} is no status of an answer: 200 to 599")
        answer = None if status is None else Answer(status)
        await self._requests().resolve(id, answer, by=who, why=why)

    async def request_expire(self, id: str, who: str = "", why: str = "") -> None:
        """Forget a key: the next request with it is a first one. Raises `NoSuchRequest`,
        `NotResolvable` while it is running."""
        await self._requests().expire(id, by=who, why=why)

    def _requests(self) -> Requests:
        from outlive.doors.requests import Requests

        return Requests(self._app.store)

    # --- what lies there --------------------------------------------------------------------------

    async def _cells(self, space: str, limit: int) -> list[Cell]:
        """The first `limit` cells of a space."""
        found: list[Cell] = []
        after = ""
        while len(found) < limit:
            page = await self._app.store.scan(space, after, min(PAGE, limit - len(found)))
            found += page
            if len(page) < PAGE:
                break
            after = page[-1].key
        return found


def _limit_line(cell: Cell, storage: str, now: int) -> LimitLine:
    from outlive.kinds.ratelimits.algorithms import read_state, used
    from outlive.kinds.ratelimits.slots import read_holders

    due = cell.due or now
    if cell.value.startswith(b"{"):
        held = sum(until > now for until in read_holders(cell.value).values())
        return LimitLine(cell.key, "slots", held, 0, storage, due)
    much, whole = used(read_state(cell.value), now)
    return LimitLine(cell.key, "quota", much, whole, storage, due)


def _breaker_line(name: str, standing: Standing) -> BreakerLine:
    from outlive.kinds.breakers.standing import state_of

    notes = sorted((*standing.turns, *standing.controls), key=lambda note: note.time)
    last = notes[-1] if notes else None
    changed, why = (last.time, f"{last.what}: {last.why}".rstrip(": ")) if last else (0, "")
    return BreakerLine(name, state_of(standing), standing.until, standing.turn, changed, why)


def _request_line(cell: Cell, it: Any) -> RequestLine:
    place, status = it.place, it.answer.status if it.answer else it.late
    expires = it.keep or it.lease
    return RequestLine(
        cell.key, it.state, place.method, place.route, place.key, place.principal, place.tenant,
        status, it.made, expires,
    )  # fmt: skip
