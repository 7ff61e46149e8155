"""A session engine for Django: `SESSION_ENGINE = "outlive.adapters.django_sessions"`.

    OUTLIVE_STORE = "postgresql://…"        or OUTLIVE_APP, see django.py
    OUTLIVE_SESSIONS = {"devices_max": 10}  what `Sessions` takes; nothing is needed

`request.session` is what it is with Django's own engines, and better where those lose something:

    two requests set different keys      both are kept: what is saved is merged key by key
    a save loses to a logout             `UpdateError`, so Django answers 400; the session is never
                                         made again
    `cycle_key`                          one commit: never two live keys, never none
    what lies in the store               the hash of a key, which gives nobody the key
    `sessions().devices("7")`            where the user with that primary key is signed in, and
    `sessions().revoke_all("7")`         signs out everywhere

Django says how long a session lives (`SESSION_COOKIE_AGE`, `set_expiry`), from each save on; the
store's clock decides when that is over, and no save carries it past `absolute_seconds` (400 days).

When the process dies before a save is committed, the session is as it was. Not promised: a session
on memcached (refused: Django's cache engine is the one for that); more than `devices_max` (63)
sessions of one user: the oldest is signed out.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.core.exceptions import ImproperlyConfigured
from msgspec import Raw

from outlive.adapters.django import client, made_once
from outlive.clock import MICROS
from outlive.doors.faces import BlockingSessions
from outlive.doors.sessions import Sessions, draw
from outlive.kinds.sessions.decisions import Make, Reply, Rotate, Save, is_id, key_of

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.blocking import BlockingOutlive

R = TypeVar("R")
ABSOLUTE_SECONDS = 400 * 86_400.0
DEVICES_MAX = 63


def _sessions() -> Sessions:
    site = client()
    return made_once("sessions", lambda: _declared(site))


def _declared(site: BlockingOutlive) -> Sessions:
    given = dict(getattr(settings, "OUTLIVE_SESSIONS", {}))
    given.setdefault("absolute_seconds", ABSOLUTE_SECONDS)
    given.setdefault("devices_max", DEVICES_MAX)
    if str(given.get("cells", "")).startswith("memcached"):
        raise ImproperlyConfigured(
            "Sessions on memcached: a rotation would be two commits there, and there is no list "
            "of devices. Use another store, or Django's own cache engine."
        )
    try:
        return site.app.sessions(
            idle_seconds=given["absolute_seconds"], touch_seconds=0, listed=True, **given
        )
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"OUTLIVE_SESSIONS: {error}") from error


def sessions() -> BlockingSessions:
    """Who is signed in where; a subject is the primary key of a user, and `but` the `store_key` of
    a session that stays."""
    return client().face(_sessions())


class SessionStore(SessionBase):  # the name is Django's
    """One session, as `request.session`."""

    _session_key: str | None

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._seen: dict[str, bytes] = {}
        """The attributes as they were when they were read or written last."""
        self._was = ""
        self._is_seen = False
        """False until they were: `clear` reads nothing, and what it clears must go all the same."""

    @property
    def store_key(self) -> str:
        """By which `sessions().devices` names it; empty for one that has no key yet."""
        return "" if self.session_key is None else key_of(self.session_key)

    # --- what Django calls ------------------------------------------------------------------------

    def load(self) -> dict[str, Any]:
        return _call(self._load)

    async def aload(self) -> dict[str, Any]:
        return await _reach(self._load)

    def exists(self, session_key: str) -> bool:
        return _call(lambda: self._exists(session_key))

    async def aexists(self, session_key: str) -> bool:
        return await _reach(lambda: self._exists(session_key))

    def create(self) -> None:
        self._session_key = self._get_new_session_key()
        self.save(must_create=True)
        self.modified = True

    async def acreate(self) -> None:
        self._session_key = self._get_new_session_key()
        await self.asave(must_create=True)
        self.modified = True

    def save(self, must_create: bool = False) -> None:
        """Merge what was changed into the session. Raises `UpdateError` when it is not there any
        more: it was signed out meanwhile, and nothing was written."""
        if self.session_key is None:
            self.create()
            return
        data = self._get_session(no_load=must_create)
        age = self.get_expiry_age()
        _call(lambda: self._save(data, age, must_create))

    async def asave(self, must_create: bool = False) -> None:
        """The same, awaited."""
        if self.session_key is None:
            await self.acreate()
            return
        data = await self._aget_session(no_load=must_create)
        age = await self.aget_expiry_age()
        await _reach(lambda: self._save(data, age, must_create))

    def delete(self, session_key: str | None = None) -> None:
        _call(lambda: self._delete(session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        await _reach(lambda: self._delete(session_key))

    def cycle_key(self) -> None:
        """Go on under a new key; the old one is dead when this returns."""
        data = self._session
        if self.session_key is None:
            self.create()
            return
        age = self.get_expiry_age()
        _call(lambda: self._move(data, age))
        self.modified = True

    async def acycle_key(self) -> None:
        """The same, awaited."""
        data = await self._aget_session()
        if self.session_key is None:
            await self.acreate()
            return
        age = await self.aget_expiry_age()
        await _reach(lambda: self._move(data, age))
        self.modified = True

    @classmethod
    def clear_expired(cls) -> None:
        _call(lambda: _sessions().sweep())

    @classmethod
    async def aclear_expired(cls) -> None:
        await _reach(lambda: _sessions().sweep())

    def _get_new_session_key(self) -> str:
        return draw()

    # --- how it is done ---------------------------------------------------------------------------

    async def _load(self) -> dict[str, Any]:
        if not await self._see():
            self._session_key = None
            self._note({}, "")
            return {}
        serializer = self.serializer()
        return {name: serializer.loads(raw) for name, raw in self._seen.items()}

    async def _see(self) -> bool:
        """Whether there is such a session; then what lies there was read."""
        held = None if self.session_key is None else await _sessions().load(self.session_key)
        if held is None:
            return False
        data = {name: bytes(raw) for name, raw in held.record.data.items()}
        self._note(data, held.record.subject)
        return True

    def _note(self, seen: dict[str, bytes], was: str) -> None:
        self._seen, self._was, self._is_seen = seen, was, True

    async def _exists(self, session_key: str) -> bool:
        return bool(session_key) and await _sessions().load(session_key) is not None

    async def _save(self, data: dict[str, Any], age: float, must_create: bool) -> None:
        now = self._written(data)
        key, subject = self._key(), str(data.get(SESSION_KEY) or "")
        life = max(1, round(age * MICROS))
        if must_create:
            raw = {name: Raw(value) for name, value in now.items()}
            reply = await _sessions().with_room(
                lambda evict: _sessions().ask(Make(key, subject, raw, evict=evict, life=life))
            )
            if reply.refused:
                raise CreateError
        else:
            if not self._is_seen:
                await self._see()
            reply = await self._changed(key, key, now, subject, life)
            if reply.found is None:
                raise UpdateError
        self._note(now, subject)

    async def _changed(
        self, key: str, fresh: str, now: dict[str, bytes], subject: str, life: int
    ) -> Reply:
        """Merge what differs from what was seen; under another key when `fresh` is one."""
        set_ = {name: Raw(raw) for name, raw in now.items() if self._seen.get(name) != raw}
        drop = tuple(name for name in self._seen if name not in now)
        if fresh == key and subject == self._was:
            return await _sessions().ask(Save(key, set_, drop, life=life))
        return await _sessions().with_room(
            lambda evict: _sessions().ask(
                Rotate(key, fresh, self._was, subject, set_, drop, evict=evict, life=life)
            )
        )

    async def _move(self, data: dict[str, Any], age: float) -> None:
        """Where the session was signed out meanwhile nothing is made, and the save that follows
        says so."""
        now, key = self._written(data), self._key()
        if not self._is_seen:
            await self._see()
        self._session_key = self._get_new_session_key()
        life = max(1, round(age * MICROS))
        subject = str(data.get(SESSION_KEY) or "")
        reply = await self._changed(key, self._key(), now, subject, life)
        if reply.found is not None:
            self._note(now, subject)

    async def _delete(self, session_key: str | None) -> None:
        id = self.session_key if session_key is None else session_key
        held = None if id is None else await _sessions().load(id)
        if held is not None:
            await _sessions().end(held.key, held.record.subject)

    def _key(self) -> str:
        """The key of its cell. A key that was not drawn here leads nowhere."""
        id = self.session_key
        if id is None or not is_id(id):
            raise UpdateError
        return key_of(id)

    def _written(self, data: dict[str, Any]) -> dict[str, bytes]:
        """Each attribute as JSON. Raises `TypeError` for what is none."""
        serializer = self.serializer()
        found = {}
        for name, value in data.items():
            if not isinstance(name, str):
                raise TypeError(f"a session's attributes have text names, not {name!r}")
            found[name] = serializer.dumps(value)
            try:
                msgspec.json.decode(found[name])  # `NaN` of Python's json is none
            except msgspec.DecodeError as error:
                raise TypeError(f"the session's attribute {name!r} is no JSON: {error}") from None
        return found


def _call(work: Callable[[], Coroutine[Any, Any, R]]) -> R:
    def begun(_: Outlive) -> Coroutine[Any, Any, R]:
        return work()

    return client().call(begun)


async def _reach(work: Callable[[], Coroutine[Any, Any, R]]) -> R:
    def begun(_: Outlive) -> Coroutine[Any, Any, R]:
        return work()

    return await client().reach(begun)
